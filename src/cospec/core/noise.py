"""Draws by the Gumbel noise of a position, the same for every lane that drafts there and for the target."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .gumbel import gumbel, noisy_best
from .rows import LogProbs, by_place, joined
from .select import is_selected
from .sheet import Sheet
from .summed import SummedLogProbs


def noisy_argmax(items: Sequence[tuple[Sheet, int, LogProbs]]) -> list[list[int]]:
    """argmax log p + G for each sheet at positions from `start` on, given as sheet, start and log p: draws from p (the
    Gumbel-max trick). The noise of all is drawn at once."""
    tokens = [_by_itself(*item) for item in items]
    undecided = [i for i, own in enumerate(tokens) if not own]
    for places in by_place([items[i][2] for i in undecided]) if undecided else ():
        same = [undecided[place] for place in places]
        rows = joined([items[i][2].values for i in same])
        keys = [key for i in same for key in _keys(*items[i])]
        best = iter(items[same[0]][2].tokens(_argmax(rows, keys, items[same[0]][2].ids)))
        for i in same:
            tokens[i] = [next(best) for _ in range(len(items[i][2]))]
    return tokens


def _by_itself(sheet: Sheet, start: int, log_probs: LogProbs) -> list[int]:
    """The tokens of positions that have a single column, or sums; none of others."""
    if isinstance(log_probs, SummedLogProbs):
        return log_probs.noisy_best(sheet.draws.noise_keys(start, len(log_probs)))
    if log_probs.ids is None or log_probs.ids.shape[-1] > 1:
        return []
    tokens: list[int] = log_probs.ids[:, 0].tolist()
    return tokens


def _argmax(rows: Tensor, keys: Sequence[int | None], ids: Tensor | None) -> list[int]:
    """For each row the column of the highest log p + G; of the highest log p where there is no key.

    ids: the tokens of the columns, None for the whole vocabulary.
    """
    if ids is None and is_selected(rows):
        return [
            int(row.numpy().argmax()) if key is None else noisy_best(key, row)
            for key, row in zip(keys, rows, strict=True)
        ]
    sampled = {row: key for row, key in enumerate(keys) if key is not None}
    if sampled:
        noise = gumbel([*sampled.values()], rows, ids)
        if len(sampled) == len(keys):
            rows = noise.add_(rows)
        else:
            rows = rows.index_add(0, torch.tensor([*sampled], device=rows.device), noise)
    columns: list[int] = rows.argmax(-1).tolist()
    return columns


def _keys(sheet: Sheet, start: int, log_probs: LogProbs) -> Sequence[int | None]:
    """None where nothing is left to chance."""
    count = len(log_probs)
    return sheet.draws.noise_keys(start, count) if sheet.params.temperature > 0 else [None] * count

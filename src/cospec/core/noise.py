"""Draws by the Gumbel noise of a position, the same for every lane that drafts there and for the target."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from .gumbel import gumbel
from .sheet import Sheet


def noisy_argmax(items: Sequence[tuple[Sheet, int, Tensor]]) -> list[list[int]]:
    """argmax log p + G for each sheet at positions from `start` on, given as sheet, start and log p [positions, vocab]:
    draws from p (the Gumbel-max trick). The noise of all is drawn at once."""
    tokens: list[list[int]] = [[] for _ in items]
    for same in by_place([log_probs for _, _, log_probs in items]):
        rows = torch.cat([items[i][2] for i in same])
        keys = [key for i in same for key in _keys(*items[i])]
        sampled = {row: key for row, key in enumerate(keys) if key is not None}
        if sampled:
            noise = gumbel([*sampled.values()], rows)
            if len(sampled) == len(keys):
                rows = noise.add_(rows)
            else:
                rows = rows.index_add(0, torch.tensor([*sampled], device=rows.device), noise)
        best = iter(rows.argmax(-1).tolist())
        for i in same:
            tokens[i] = [next(best) for _ in range(items[i][2].shape[0])]
    return tokens


def by_place(rows: Sequence[Tensor]) -> list[list[int]]:
    """Indices of the rows that can stand in one tensor: those on one device and of one type."""
    if len(rows) == 1:
        return [[0]]
    same: dict[tuple[torch.device, torch.dtype], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        same[row.device, row.dtype].append(index)
    return list(same.values())


def _keys(sheet: Sheet, start: int, log_probs: Tensor) -> Sequence[int | None]:
    """None where nothing is left to chance."""
    count = log_probs.shape[0]
    return sheet.draws.noise_keys(start, count) if sheet.params.temperature > 0 else [None] * count

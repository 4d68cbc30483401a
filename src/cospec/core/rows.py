"""Log-probabilities of one sequence's positions: of the whole vocabulary, or of the tokens that sampling keeps."""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .select import Kept, Row, are_floats_here

# Stands in the columns that a position has too many of: no token's id.
NO_TOKEN = 2**48


@dataclass(frozen=True)
class LogProbs:
    """Log-probabilities at consecutive positions.

    values: [positions, columns]. ids [positions, columns]: the tokens that each position's columns stand for,
    ascending; all others are forbidden. Where it has fewer than another position, the last are NO_TOKEN's, -inf. None
    where the columns are the whole vocabulary.
    """

    values: Tensor
    ids: Tensor | None = None

    def __len__(self) -> int:
        return self.values.shape[0]

    def between(self, start: int, stop: int) -> "LogProbs":
        """Of positions start .. stop - 1."""
        return LogProbs(self.values[start:stop], None if self.ids is None else self.ids[start:stop])

    def whole(self, vocab_size: int) -> Tensor:
        """[positions, vocab], -inf for tokens without a column."""
        return self.values if self.ids is None else spread(self.values, self.ids, vocab_size, -torch.inf)

    def ids_at(self, position: int) -> Tensor | None:
        """The tokens [columns] of one position's columns."""
        return None if self.ids is None else self.ids[position]

    def tokens(self, columns: Sequence[int]) -> Sequence[int]:
        """The tokens that columns stand for, one of each position."""
        if self.ids is None:
            return columns
        return [int(own[column]) for own, column in zip(self.ids.numpy(), columns, strict=True)]

    def at(self, tokens: Sequence[int]) -> list[float]:
        """Of one token at each position."""
        if self.ids is None and not are_floats_here(self.values):
            columns = torch.tensor(tokens, device=self.values.device)[:, None]
            values: list[float] = self.values.gather(1, columns)[:, 0].tolist()
            return values
        # One value of each row, which numpy reads in less time than torch gathers them.
        ids = itertools.repeat(None, len(self)) if self.ids is None else self.ids.numpy()
        rows = zip(self.values.detach().numpy(), ids, tokens, strict=True)
        return [value_of(*row, -math.inf) for row in rows]


def normalised(kept: Sequence[Kept]) -> LogProbs:
    """Log-probabilities at the positions of a block, of each of which these tokens are kept, with heated logits."""
    columns = [(ids, _normalised(values)) for ids, values in kept]
    if len(columns) == 1:
        ids, values = columns[0]
        return LogProbs(torch.from_numpy(values[None]), torch.from_numpy(ids[None]))
    shape = len(columns), max(len(own) for own, _ in columns)
    ids, values = np.full(shape, NO_TOKEN), np.full(shape, -math.inf, dtype=columns[0][1].dtype)
    for position, (own, own_values) in enumerate(columns):
        ids[position, : len(own)], values[position, : len(own)] = own, own_values
    return LogProbs(torch.from_numpy(values), torch.from_numpy(ids))


def _normalised(values: Row) -> Row:
    """log p [kept]; of one token 0, or NaN."""
    if len(values) == 1:
        return values - values
    log_p: Row = torch.log_softmax(torch.from_numpy(values), dim=-1).numpy()
    return log_p


def spread(values: Tensor, ids: Tensor, vocab_size: int, elsewhere: float) -> Tensor:
    """Columns [..., columns] of the tokens `ids`, same shape -> [..., vocab], `elsewhere` at all others."""
    # NO_TOKEN goes to a column behind the vocabulary.
    rows = values.new_full((*values.shape[:-1], vocab_size + 1), elsewhere)
    return rows.scatter_(-1, ids.clamp(max=vocab_size), values)[..., :vocab_size]


def picked(probs: Tensor, ids: Tensor | None, wanted: Tensor) -> Tensor:
    """Probabilities [columns] of the tokens `ids`, None for the whole vocabulary -> those of the tokens `wanted`; of
    NO_TOKEN any."""
    if ids is None:
        return probs[wanted.clamp(max=len(probs) - 1)]
    if are_floats_here(probs):
        # By numpy, which takes few entries in a small part of torch's time.
        own, tokens = ids.numpy(), wanted.numpy()
        places = np.minimum(own.searchsorted(tokens), len(own) - 1)
        return torch.from_numpy(
            np.where(own[places] == tokens, probs.detach().numpy()[places], probs.new_zeros(()).numpy())
        )
    columns, have_one = _found(ids, wanted)
    return torch.where(have_one, probs[columns], 0.0)


def value_of(values: NDArray[np.floating], ids: NDArray[np.int64] | None, token: int, elsewhere: float) -> float:
    """Of columns [columns] on a CPU, those of the tokens `ids`, None for the whole vocabulary: the value of one token,
    `elsewhere` where it has none."""
    if ids is None:
        return float(values[token])
    column = int(ids.searchsorted(token))
    return float(values[column]) if column < len(ids) and ids[column] == token else elsewhere


def _found(ids: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of tokens, any where they have none, and whether they have one. Both of the same leading shape."""
    columns = torch.searchsorted(ids, tokens).clamp_(max=ids.shape[-1] - 1)
    return columns, ids.gather(-1, columns) == tokens


def by_place(rows: Sequence[LogProbs]) -> list[list[int]]:
    """Indices of the rows that can stand in one tensor: those on one device, of one type and width, and of the whole
    vocabulary. Others stand alone."""
    if len(rows) == 1:
        return [[0]]
    same: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        values = row.values
        same[values.device, values.dtype, values.shape[-1], index if row.ids is not None else None].append(index)
    return list(same.values())


def joined(rows: Sequence[Tensor]) -> Tensor:
    """Concatenated. Rows of members on different devices go to the first one's."""
    return rows[0] if len(rows) == 1 else torch.cat([row.to(rows[0]) for row in rows])


def parted(rows: Tensor, lengths: list[int]) -> list[Tensor]:
    """The inverse of `joined`: stretches of these lengths."""
    return [rows] if len(lengths) == 1 else [*torch.split(rows, lengths)]

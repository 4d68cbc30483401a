"""The tokens of a forward pass in two layouts: in padded rows, and one behind the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .batch import ForwardBatch
from .invariant import Blocks, Sizes


@dataclass(frozen=True)
class Ragged:
    """Two layouts of the same tokens: one behind the other, [tokens, ...], and in padded rows, [rows, width, ...].

    tokens: row and column of each token, None where no row is padded. sizes: the numbers of tokens that a pass
    computes; up to the next one, zeros stand behind the tokens. None for as many as there are. blocks: the shapes that
    it keeps to, which are such numbers too; None for its own.
    """

    rows: int
    width: int
    tokens: tuple[Tensor, Tensor] | None
    sizes: Sizes | None = None
    blocks: Blocks | None = None

    @classmethod
    def of(cls, input_ids: Tensor, batch: ForwardBatch, sizes: Sizes | None = None) -> "Ragged":
        """sizes: of a pass that keeps to no blocks."""
        rows, width = input_ids.shape
        return cls(rows, width, batch.tokens, batch.blocks or sizes, batch.blocks)

    @property
    def num_tokens(self) -> int:
        return self.rows * self.width if self.tokens is None else len(self.tokens[0])

    def flattened(self, padded: Tensor) -> Tensor:
        flat = padded.flatten(0, 1) if self.tokens is None else padded[self.tokens]
        return flat if self.sizes is None else self.sizes.filled(flat)

    def padded(self, flat: Tensor) -> Tensor:
        """[tokens, ...] -> [rows, width, ...], with zeros as padding."""
        if flat.shape[0] > self.num_tokens:
            flat = flat[: self.num_tokens]
        if self.tokens is None:
            return flat.view(self.rows, self.width, *flat.shape[1:])
        rows = flat.new_zeros((self.rows, self.width, *flat.shape[1:]))
        rows[self.tokens] = flat
        return rows


@dataclass(frozen=True)
class Selection:
    """The tokens whose logits are wanted: the last layer computes keys and values alone for the others.

    width: all of them are among this many last tokens of their rows. tokens: row and column of each, columns counted
    from the right; None where they are the last `width` of every row. sizes: see `Ragged`.
    """

    width: int
    tokens: tuple[Tensor, Tensor] | None
    sizes: Sizes | None = None

    @classmethod
    def last(cls, num_logits: Sequence[int], ragged: Ragged) -> "Selection | None":
        """The last `num_logits` tokens of each row; None if those are all tokens."""
        if sum(num_logits) == ragged.num_tokens:
            return None
        width = max(num_logits)
        if min(num_logits) == width:
            return cls(width, None, ragged.sizes)
        tokens = [(row, column) for row, count in enumerate(num_logits) for column in range(-count, 0)]
        rows, columns = torch.tensor(tokens).unbind(-1)
        return cls(width, (rows, columns), ragged.sizes)

    def of(self, padded: Tensor) -> Tensor:
        """[rows, at least `width` columns, ...] -> [selected tokens, ...]."""
        selected = padded[:, -self.width :].flatten(0, 1) if self.tokens is None else padded[self.tokens]
        return selected if self.sizes is None else self.sizes.filled(selected)

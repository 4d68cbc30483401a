"""Numerics in which a row is a function of the tokens before it alone, whatever stands beside it in a forward pass.

Sums of floating-point numbers depend on their order, and kernels choose an order by the shape of a product. So a pass
computes one of few numbers of tokens, for which `proof` found that they give the same bits; and a query attends to its
keys in chunks that begin at fixed positions, one chunk's sum added behind the other's. What is masked adds zeros.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

# Chunks of keys end at these positions, then every LAST_CHUNK: short texts are not padded far, long ones need few sums.
FIRST_ENDS = (64, 128)
LAST_CHUNK = 256


@dataclass(frozen=True)
class Sizes:
    """Numbers of tokens that a pass computes, in ascending order: fewer are filled up to the next one, and more than
    the last are computed as they come."""

    tokens: tuple[int, ...]

    def filled(self, flat: Tensor) -> Tensor:
        """[tokens, ...], with zeros behind it up to the next of these numbers."""
        count = flat.shape[0]
        size = next((size for size in self.tokens if size >= count), count)
        return flat if size == count else F.pad(flat, (0, 0) * (flat.dim() - 1) + (0, size - count))


@dataclass(frozen=True)
class Blocks(Sizes):
    """Shapes that give the same bits: tokens of a pass, and the fewest rows of a product of queries with keys."""

    fewest_queries: int

    @property
    def most(self) -> int:
        """The most tokens of a pass."""
        return self.tokens[-1]

    def common(self, other: "Blocks") -> "Blocks":
        """The shapes of both."""
        tokens = (*(size for size in self.tokens if size in other.tokens),)
        return Blocks(tokens, max(self.fewest_queries, other.fewest_queries))

    def attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        scale: float,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """[sequences, heads, queries, dim], attending to all keys that the mask allows.

        queries: the same shape. keys, values: [sequences, kv_heads, keys, dim], up to the end of a chunk. mask:
        [sequences, 1, queries, keys], added to the scores; such passes always have one. change: what is done to scores
        before.
        """
        assert mask is not None, "a pass in blocks has masks"
        num_sequences, num_heads, width, _ = queries.shape
        num_groups, length = keys.shape[1], keys.shape[2]
        # The heads that share keys are more rows of one product.
        share = num_heads // num_groups
        rows = self._enough(queries.reshape(num_sequences, num_groups, share * width, -1))
        scores = torch.cat([rows @ keys[:, :, span].transpose(-1, -2) for span in chunks(length)], dim=-1)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale
        if change is not None:
            scores = change(scores)
        scores = scores[:, :, : share * width].view(num_sequences, num_groups, share, width, length) + mask[:, :, None]
        shares = self._enough(torch.softmax(scores, dim=-1).to(values.dtype).flatten(2, 3))
        attended = _sums(shares, values)[:, :, : share * width]
        return attended.reshape(num_sequences, num_heads, width, -1)

    def _enough(self, rows: Tensor) -> Tensor:
        """[sequences, groups, rows, ...], with zeros behind fewer rows than a product may have."""
        missing = self.fewest_queries - rows.shape[2]
        return F.pad(rows, (0, 0, 0, missing)) if missing > 0 else rows


def _sums(shares: Tensor, values: Tensor) -> Tensor:
    """Of values [sequences, groups, keys, dim] by their shares [sequences, groups, rows, keys], chunk behind chunk."""
    first, *others = chunks(values.shape[2])
    total = shares[..., first] @ values[:, :, first]
    if not others:
        return total
    # Added in float32, and rounded once.
    wide = total.to(torch.promote_types(total.dtype, torch.float32))
    for span in others:
        wide += shares[..., span] @ values[:, :, span]
    return wide.to(values.dtype)


@cache
def chunks(length: int) -> tuple[slice, ...]:
    """The chunks of positions up to `length`, which is the end of one."""
    ends = [end for end in FIRST_ENDS if end < length]
    ends += [*range(LAST_CHUNK, length, LAST_CHUNK), length]
    return tuple(slice(start, end) for start, end in zip([0, *ends], ends, strict=False))


def chunk_end(length: int) -> int:
    """The end of the chunk that the last of `length` positions lies in."""
    first = next((end for end in FIRST_ENDS if end >= length), None)
    return first or -(-length // LAST_CHUNK) * LAST_CHUNK

"""Random draws, counter-based: each is a hash of (seed, sequence, position, purpose, epoch).

So a sequence's text depends neither on the order of forward passes nor on what else is in the batch.
"""

import enum
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .gumbel import gumbel
from .select import Row, are_floats_here, is_selected, kernels

# A large vocabulary is summed in blocks of so many tokens.
BLOCK = 256
# How far sums in different orders may lie apart, of the total: n / 2^53 for n terms, with room.
NEAR = 1e-9


class Purpose(enum.IntEnum):
    """What a draw is for: draws of different purposes are independent."""

    SETTLE = 0
    PROPOSE = 1
    ACCEPT = 2
    REPLACE = 3
    MEMBER = 4


@dataclass(frozen=True)
class Draws:
    """One sequence's randomness. `index` tells the n samples of one prompt apart."""

    seed: int
    index: int = 0

    def key(self, position: int, purpose: Purpose, epoch: int = 0) -> int:
        """A signed 64-bit hash."""
        packed = struct.pack("<QqqqQ", self.seed % 2**64, self.index, position, purpose, epoch)
        return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little", signed=True)

    def uniform(self, position: int, purpose: Purpose, epoch: int = 0) -> float:
        """In (0, 1), a multiple of 2^-48 off by half of one, so that neither end is ever drawn."""
        return ((self.key(position, purpose, epoch) & (2**48 - 1)) + 0.5) / 2**48

    def noise_keys(self, start: int, num_positions: int) -> list[int]:
        """Those of the noise that settles positions start, start + 1, ..."""
        return [self.key(position, Purpose.SETTLE) for position in range(start, start + num_positions)]

    def gumbel(self, start: int, num_positions: int, like: Tensor) -> Tensor:
        """G_t(x) for positions start, start + 1, ...: [num_positions, vocab], of the last dimension of `like`.

        It depends on (seed, sequence, position, token) alone: the same for every lane that drafts there and for the
        target.
        """
        return gumbel(self.noise_keys(start, num_positions), like)


def probabilities(log_probs: Tensor) -> Tensor:
    """exp of normalised rows [..., vocab], as softmax: of what underflows, exp alone takes 5 to 20 times as long.

    Large rows are normalised by a sum in float64: torch's, in float32, is off by up to 1e-4.
    """
    probs = torch.softmax(log_probs, dim=-1)
    return probs.div_(probs.sum(-1, keepdim=True, dtype=torch.float64).to(probs)) if is_selected(probs) else probs


def draw(probs: Tensor, uniforms: Sequence[float]) -> list[int]:
    """For each row of `probs` [rows, columns] the column at which its running sum, in float64, passes that uniform of
    its total."""
    is_long = is_selected(probs)
    if is_long or (len(probs) == 1 and are_floats_here(probs)):
        found = _found if is_long else _by_running_sum
        return [found(row, uniform) for row, uniform in zip(probs.detach().numpy(), uniforms, strict=True)]
    return draw_by_running_sum(probs, uniforms)


def draw_by_running_sum(probs: Tensor, uniforms: Sequence[float]) -> list[int]:
    """`draw` in plain torch."""
    running = probs.cumsum(-1, dtype=torch.float64)
    parts = torch.tensor([[uniform] for uniform in uniforms], dtype=torch.float64, device=running.device)
    columns: list[int] = torch.searchsorted(running, running[:, -1:] * parts, right=True)[:, 0].tolist()
    return columns


def _by_running_sum(probs: Row, uniform: float) -> int:
    """The same of one row [columns] in numpy, which takes less time than torch for few columns."""
    running = probs.cumsum(dtype=np.float64)
    return int(running.searchsorted(running[-1] * uniform, side="right"))


def _found(probs: Row, uniform: float) -> int:
    """The same of one row [columns], by the sums of blocks and a running sum within the one that is passed.

    Sums in another order differ in their last bits: where that might matter, the running sum itself is made.
    """
    ends = _sums_of_blocks(probs).cumsum()
    wanted = ends[-1] * uniform
    block = int(ends.searchsorted(wanted, side="right"))
    start, before = block * BLOCK, ends[block - 1] if block else 0.0
    running = before + probs[start : start + BLOCK].cumsum(dtype=np.float64)
    column = int(running.searchsorted(wanted, side="right"))
    margin = NEAR * ends[-1]
    low, high = running[column - 1] if column else before, running[column] if column < len(running) else wanted
    if low + margin < wanted < high - margin:
        return start + column
    return _by_running_sum(probs, uniform)


def _sums_of_blocks(probs: Row) -> NDArray[np.float64]:
    """Of one row [columns] the sum of each BLOCK, the last of which may be shorter or empty."""
    size = len(probs) // BLOCK * BLOCK
    if kernels() is not None and probs.dtype == np.float32 and probs.flags.c_contiguous:
        sums = np.empty(len(probs) // BLOCK + 1)
        kernels().summed_by_block(probs, sums)
        return sums
    # Which torch sums in less time than numpy.
    row = torch.from_numpy(probs)
    whole, rest = row[:size].view(-1, BLOCK).sum(-1, dtype=torch.float64), row[size:].double().sum()
    return torch.cat([whole, rest[None]]).numpy()

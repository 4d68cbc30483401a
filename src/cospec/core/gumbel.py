"""Gumbel's noise as a function of 64-bit keys: the same bits for a key wherever they are computed.

Numbers are hashed by the finaliser of SplitMix64 (Steele et al. 2014). On a CPU numpy does it: torch has no shift of
unsigned numbers, and takes twice as long for it with what there is.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .select import HotRow, kernels

STEP, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
# The bits of a number in [1, 2), of which 52 are free: below 1 by half a step less, it is (k + 0.5) / 2^52, to the bit.
ONE, BELOW_ONE = 0x3FF << 52, 1 - 2**-53
# Log-probabilities from here on are likely to win with their noise; at most e^8 of a row can be so high.
LIKELY = -8.0
# The last step of the hash leaves so many of the highest bits as they are.
NUM_FIRST_BITS = 31
# By how much a sum of log-probability and noise may be off, in the narrower type.
SLACK = 1e-3
# How near to the best sum another may come, where they are not right to the bit.
NEAR = 1e-4

Bits = NDArray[np.uint64]


def gumbel(keys: Sequence[int], like: Tensor, ids: Tensor | None = None) -> Tensor:
    """G(x) for each key, a signed 64-bit number: [keys, columns], of the type, device and last dimension of `like`.

    ids [columns]: the tokens x that the columns stand for; None where they are the whole vocabulary.
    """
    if like.device.type == "cpu":
        uniforms = on_cpu(keys, like.shape[-1], None if ids is None else ids.numpy())
    else:
        uniforms = on_device(keys, like.shape[-1], like.device, ids)
    # Only the first logarithm is of numbers that a narrower type cannot tell apart: those near 1.
    return uniforms.log_().neg_().to(like.dtype).log_().neg_()


def noisy_best(key: int, log_p: Tensor) -> int:
    """argmax log p + G of one normalised row [vocab] on a CPU, the lowest of equals: as from the noise of all tokens.

    Logarithms are taken of few: of the likely tokens, then of those below LIKELY whose noise may be high enough to pass
    the best of the likely ones, for which the first bits of the hash are compared.
    """
    likely = np.flatnonzero(log_p.numpy() >= LIKELY)
    if not len(likely):
        return int((gumbel([key], log_p)[0] + log_p).numpy().argmax())
    least = _least_hash(float(_sums(key, log_p, likely).max()) - LIKELY)
    ids = np.union1d(likely, hashed_above(key, len(log_p), least))
    return int(ids[_sums(key, log_p, ids).argmax()])


def best_of_sums(key: int, row: HotRow, exact: Callable[[], Tensor]) -> int:
    """The same of a row that was summed. exact: makes its log p [vocab], where the best two are nearly equal, or no
    token is likely."""
    own = (row.logits, row.highest_in, row.highest, 1 / row.temperature, math.log(row.total))
    token: int = kernels().noisy_best(np.uint64(key % 2**64), *own, LIKELY, SLACK, NEAR)
    return token if token >= 0 else noisy_best(key, exact())


def _sums(key: int, log_p: Tensor, ids: NDArray[np.int64]) -> NDArray[np.floating]:
    """log p + G of these tokens."""
    tokens = torch.from_numpy(ids)
    own = log_p[tokens]
    return (gumbel([key], own, tokens)[0] + own).numpy()


def _least_hash(noise: float) -> np.uint64:
    """What the hash of a token with so much noise has at least, in its first bits; the others are 0."""
    uniform = math.exp(-math.exp(SLACK - noise))
    return np.uint64(max(0, int(uniform * 2**NUM_FIRST_BITS) - 1) << (64 - NUM_FIRST_BITS))


def on_cpu(keys: Sequence[int], vocab_size: int, ids: NDArray[np.int64] | None = None) -> Tensor:
    """[keys, columns] float64 in (0, 1): of the tokens `ids`, or of the whole vocabulary."""
    starts = np.array(keys, dtype=np.int64).view(np.uint64)
    steps = _steps(vocab_size) if ids is None else (ids + 1).astype(np.uint64) * np.uint64(STEP)
    x = _mixed(starts[:, None] + steps)
    x ^= x >> np.uint64(31)
    x >>= np.uint64(12)
    x |= np.uint64(ONE)
    return torch.from_numpy(x.view(np.float64)).sub_(BELOW_ONE)


@functools.lru_cache(maxsize=4)
def _steps(vocab_size: int) -> Bits:
    """Of each token, how far its number lies from the key."""
    return np.arange(1, vocab_size + 1, dtype=np.uint64) * np.uint64(STEP)


def first_bits(key: int, vocab_size: int) -> Bits:
    """The hash of each token, right in its first NUM_FIRST_BITS bits alone."""
    return _mixed(_steps(vocab_size) + np.uint64(key % 2**64))


def hashed_above(key: int, vocab_size: int, least: np.uint64) -> NDArray[np.int64]:
    """The tokens whose first bits are no lower, ascending."""
    if kernels() is None:
        return np.flatnonzero(first_bits(key, vocab_size) >= least)
    ids = np.empty(vocab_size + 1, dtype=np.int64)
    return ids[: kernels().hashed_above(np.uint64(key % 2**64), vocab_size, least, ids)]


def _mixed(x: Bits) -> Bits:
    """The hash but for its last step, in place."""
    shifted = np.empty_like(x)
    for bits, factor in ((30, FIRST), (27, SECOND)):
        x ^= np.right_shift(x, bits, out=shifted)
        x *= np.uint64(factor)
    return x


def on_device(keys: Sequence[int], vocab_size: int, device: torch.device, ids: Tensor | None = None) -> Tensor:
    """The same."""
    starts = torch.tensor(keys, device=device)
    numbers = torch.arange(1, vocab_size + 1, device=device) if ids is None else ids + 1
    x = starts[:, None] + numbers * _signed(STEP)
    for bits, factor in ((30, FIRST), (27, SECOND)):
        x = x.bitwise_xor_(_shifted(x, bits)).mul_(_signed(factor))
    x = x.bitwise_xor_(_shifted(x, 31))
    return _shifted(x, 12).bitwise_or_(ONE).view(torch.float64).sub_(BELOW_ONE)


def _signed(number: int) -> int:
    """The signed number of the same 64 bits."""
    return number - 2**64 if number >= 2**63 else number


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A logical shift to the right, filled with zeros; torch's own shift is arithmetic and repeats the sign."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)

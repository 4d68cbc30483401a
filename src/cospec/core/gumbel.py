"""Gumbel's noise as a function of 64-bit keys: the same bits for a key wherever they are computed.

Numbers are hashed by the finaliser of SplitMix64 (Steele et al. 2014). On a CPU numpy does it: torch has no shift of
unsigned numbers, and takes twice as long for it with what there is.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

STEP, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
# The bits of a number in [1, 2), of which 52 are free: below 1 by half a step less, it is (k + 0.5) / 2^52, to the bit.
ONE, BELOW_ONE = 0x3FF << 52, 1 - 2**-53


def gumbel(keys: Sequence[int], like: Tensor) -> Tensor:
    """G(x) for each key, a signed 64-bit number: [keys, vocab], of the type, device and last dimension of `like`."""
    vocab_size = like.shape[-1]
    uniforms = on_cpu(keys, vocab_size) if like.device.type == "cpu" else on_device(keys, vocab_size, like.device)
    # Only the first logarithm is of numbers that a narrower type cannot tell apart: those near 1.
    return uniforms.log_().neg_().to(like.dtype).log_().neg_()


def on_cpu(keys: Sequence[int], vocab_size: int) -> Tensor:
    """[keys, vocab] float64 in (0, 1)."""
    starts = np.array(keys, dtype=np.int64).view(np.uint64)
    x = starts[:, None] + np.arange(1, vocab_size + 1, dtype=np.uint64) * np.uint64(STEP)
    shifted = np.empty_like(x)
    for bits, factor in ((30, FIRST), (27, SECOND)):
        x ^= np.right_shift(x, bits, out=shifted)
        x *= np.uint64(factor)
    x ^= np.right_shift(x, 31, out=shifted)
    x >>= np.uint64(12)
    x |= np.uint64(ONE)
    return torch.from_numpy(x.view(np.float64)).sub_(BELOW_ONE)


def on_device(keys: Sequence[int], vocab_size: int, device: torch.device) -> Tensor:
    """The same."""
    starts = torch.tensor(keys, device=device)
    x = starts[:, None] + torch.arange(1, vocab_size + 1, device=device) * _signed(STEP)
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

"""Loops over one row of a large vocabulary, compiled by numba (`pip install 'cospec[numba]'`); see `select.kernels`.

They take a row through memory once where torch takes it several times. Comparisons and hashes are right to the bit.
Sums are rounded in another way than torch's, so that they decide nothing that lies within `select.ROUNDING`.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .gumbel import FIRST, SECOND, STEP

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Bits = NDArray[np.int32]

# Tokens that are looked at together: where none is high, all are passed over.
BLOCK = 256
LEAST = np.float32(np.finfo(np.float32).min)
# 2^f for f in (-1, 0], from f^0 on, to 8e-8.
C0, C1, C2, C3, C4, C5 = map(
    np.float32, (0.9999999251, 0.6931422525, 0.2401721889, 0.05527972159, 0.00918861064, 9.387879139e-4)
)
# Nothing below 2^-126, the least normal number, adds to a sum. A float32's exponent, off by 127, starts at bit 23.
LOWEST, BIAS, MANTISSA = np.float32(-126), np.int32(127), np.int32(23)
SIGN, BUT_SIGN, LEAST_ORDERED = np.int32(31), np.int32(2**31 - 1), np.int32(-0x7F800000)
LOG2_E = math.log2(math.e)
# Weights are added up in so many bins of heated logits; of one bin so many are sorted, at most.
NUM_BINS, MOST_SORTED = 512, 4096
# Of the hash.
BY_STEP, BY_FIRST, BY_SECOND, SHIFT_FIRST, SHIFT_SECOND = map(np.uint64, (STEP, FIRST, SECOND, 30, 27))


def _compiled(*signatures: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: compiles a function, and keeps it on disk where there is a folder to write to."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        compile_ = numba.njit([*signatures], error_model="numpy", cache=True, **options)
        compiled: Callable[..., Any]
        try:
            compiled = compile_(function)
        except RuntimeError:  # no such folder
            compiled = numba.njit([*signatures], error_model="numpy", **options)(function)
        return compiled

    return decorate


@_compiled("int32(int32)")
def _ordered(bits: np.int32) -> np.int32:
    """The bits of a float32 -> a number of the same order, and back."""
    return np.int32(bits ^ ((bits >> SIGN) & BUT_SIGN))


# As whole numbers, since a maximum of floats is not vectorised. NaN is above all or below; the sums have it, too.
@_compiled("float32(int32[::1])")
def _highest(bits: Bits) -> np.float32:
    """The maximum of float32's, given by their bits, and of LEAST."""
    highest = LEAST_ORDERED
    for at in range(len(bits)):
        own = _ordered(bits[at])
        highest = own if own > highest else highest
    return np.int32(_ordered(highest)).view(np.float32)


@_compiled("float32(float32[::1], float32, float32)", fastmath={"reassoc", "contract"})
def _powers_summed(part: Floats, highest: np.float32, factor: np.float32) -> np.float32:
    """The sum of 2^((x - highest) * factor)."""
    total = np.float32(0)
    for at in range(len(part)):
        power = (part[at] - highest) * factor
        # In this order NaN stays.
        power = LOWEST if power < LOWEST else power
        whole = np.int32(power)
        rest = power - np.float32(whole)
        of_rest = ((((C5 * rest + C4) * rest + C3) * rest + C2) * rest + C1) * rest + C0
        total += of_rest * np.int32((whole + BIAS) << MANTISSA).view(np.float32)
    return total


@_compiled("UniTuple(float64, 2)(float32[::1], float32, float32[::1])")
def summed(row: Floats, factor: float, highest_in: Floats) -> tuple[float, float]:
    """The maximum of a row [vocab], and the sum of 2^((x - maximum) * factor), to 1e-6 of it: NaN where the row has NaN
    or an infinite maximum, or forbids every token. Fills highest_in [blocks]: the maximum of each block."""
    highest, total = LEAST, 0.0
    bits = row.view(np.int32)
    for block in range(len(highest_in)):
        part = row[block * BLOCK : (block + 1) * BLOCK]
        own = _highest(bits[block * BLOCK : (block + 1) * BLOCK])
        highest_in[block] = own
        if own > highest:
            total *= math.exp2((float(highest) - float(own)) * float(factor))
            highest = own
        total += _powers_summed(part, highest, factor)
    return float(highest), total


@_compiled("int64(float32[::1], float32[::1], float32, int64[::1])")
def above(row: Floats, highest_in: Floats, floor: float, ids: Ids) -> int:
    """Fills ids [vocab + 1] with the tokens of a row that are no lower than the floor, ascending; how many they are."""
    count = 0
    is_high = np.empty(BLOCK, dtype=np.uint8)
    eights = is_high.view(np.uint64)
    for block in range(len(highest_in)):
        if highest_in[block] >= floor:
            part = row[block * BLOCK : (block + 1) * BLOCK]
            is_high[len(part) :] = 0
            for at in range(len(part)):
                is_high[at] = part[at] >= floor
            for eight in range(BLOCK // 8):
                if eights[eight]:
                    for at in range(8 * eight, 8 * eight + 8):
                        ids[count] = block * BLOCK + at
                        count += is_high[at]
    return count


@_compiled("void(float32[::1], float32[::1])")
def _exponentials(values: Floats, weights: Floats) -> None:
    """Fills weights [n] with exp of values [n], all from -87 to 0, to 3e-7 of it."""
    for at in range(len(values)):
        power = float(values[at]) * LOG2_E
        whole = np.int32(power)
        rest = np.float32(power - whole)
        of_rest = ((((C5 * rest + C4) * rest + C3) * rest + C2) * rest + C1) * rest + C0
        weights[at] = of_rest * np.int32((whole + BIAS) << MANTISSA).view(np.float32)


@_compiled("UniTuple(int64, 2)(float32[::1], float64, float64, float64)")
def _last_of(ordered: Floats, before: float, least_sum: float, most_sum: float) -> tuple[int, int]:
    """Of values [n], ascending: where the one stands, from the highest down, with which exp of them, added to `before`,
    sums to most_sum or more, and how many of its equals were added; -1 where it is not the first that sums to
    least_sum or more, and where none does."""
    weights = np.empty(len(ordered), dtype=np.float32)
    _exponentials(ordered, weights)
    num_equal = 0
    for at in range(len(ordered) - 1, -1, -1):
        if before >= least_sum:
            return -1, 0
        num_equal = num_equal + 1 if at + 1 < len(ordered) and ordered[at] == ordered[at + 1] else 1
        before += weights[at]
        if before >= most_sum:
            return at, num_equal
    return -1, 0


@_compiled("int64(float32[::1], float64, float64, float64, int64[::1])")
def fewest(values: Floats, highest_left: float, least_sum: float, most_sum: float, places: Ids) -> int:
    """Fills places [n] with those of the highest of values [n], ascending, of equals the first: as few as sum, exp of
    each, to least_sum or more, and to most_sum or more; how many they are. Values are from -87 to 0.

    -1 where all of them sum to less. 0 where it is not certain which they are: one sum is reached before the other, the
    last is no higher than highest_left, or too many are nearly equal.
    """
    weights, bins = np.empty(len(values), dtype=np.float32), np.empty(len(values), dtype=np.int32)
    _exponentials(values, weights)
    by_depth = NUM_BINS / max(-highest_left, 1.0)
    for at in range(len(values)):
        bins[at] = min(int(float(-values[at]) * by_depth), NUM_BINS - 1)
    sums = np.zeros(NUM_BINS)
    for at in range(len(values)):
        sums[bins[at]] += weights[at]
    before, last = 0.0, 0
    while last < NUM_BINS and before + sums[last] < least_sum:
        before += sums[last]
        last += 1
    if last == NUM_BINS:
        return -1
    within = values[bins == last]
    if len(within) > MOST_SORTED:
        return 0
    within.sort()
    place, num_equal = _last_of(within, before, least_sum, most_sum)
    if place < 0 or within[place] <= highest_left:
        return 0
    least, count = within[place], 0
    for at in range(len(values)):
        is_equal = values[at] == least and num_equal > 0
        places[count] = at
        count += values[at] > least or is_equal
        num_equal -= is_equal
    return count


@_compiled("void(float32[::1], int64[::1], float32, float32, float32[::1])")
def heated(row: Floats, ids: Ids, highest: np.float32, temperature: np.float32, values: Floats) -> None:
    """Fills values [n] with (x - highest) / temperature of the tokens ids [n] of a row."""
    for at in range(len(ids)):
        values[at] = (row[ids[at]] - highest) / temperature


@_compiled("float64(float32[::1])", fastmath={"reassoc"})
def _sum(part: Floats) -> float:
    total = 0.0
    # By places: over values the loop is not vectorised.
    for at in range(len(part)):
        total += float(part[at])
    return total


@_compiled("void(float32[::1], float64[::1])")
def summed_by_block(row: Floats, sums: NDArray[np.float64]) -> None:
    """Fills sums [blocks] with the sum, in float64, of each BLOCK of a row [columns]; the last may be shorter."""
    for block in range(len(sums)):
        sums[block] = _sum(row[block * BLOCK : (block + 1) * BLOCK])


@_compiled("int64(uint64, int64, uint64, int64[::1])")
def hashed_above(key: np.uint64, vocab_size: int, least: np.uint64, ids: Ids) -> int:
    """Fills ids [vocab] with the tokens whose hash, right in its first bits alone as that of `gumbel.first_bits`, is no
    lower; how many they are."""
    count = 0
    for token in range(vocab_size):
        x = key + np.uint64(token + 1) * BY_STEP
        x = (x ^ (x >> SHIFT_FIRST)) * BY_FIRST
        x = (x ^ (x >> SHIFT_SECOND)) * BY_SECOND
        if x >= least:
            ids[count] = token
            count += 1
    return count

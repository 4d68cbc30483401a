"""Loops over one row of a vocabulary, compiled by numba (`pip install 'cospec[numba]'`); see `select.kernels`.

They take a row through memory once where torch takes it several times. Comparisons and hashes are right to the bit.
Sums are rounded in another way than torch's, so that they decide nothing that lies within the margins of `select`.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from .gumbel import FIRST, SECOND, STEP

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Bits = NDArray[np.int32]
# The type of tokens and their heated logits.
KEPT = "Tuple((int64[::1], float32[::1]))"

# Tokens that are looked at together: where none is high, all are passed over.
BLOCK = 256
# Tokens of a block that are compared at once.
PART = 32
PARTS = BLOCK // PART
# From so many places in a row its maximum is taken at once: so memory is waited for less.
STREAMS = 4
LEAST = np.float32(np.finfo(np.float32).min)
# 2^f for f from -.5 to .5, from f^0 on, to 1.1e-7.
C0, C1, C2, C3, C4, C5 = map(np.float32, (1.0, 0.6931469776, 0.2402224208, 0.0555073375, 0.0096715128, 0.0013264727))
# log2 e in two float32's: the first, rounded, and the rest.
LOG2_E = np.float32(math.log2(math.e))
LOG2_E_REST = np.float32(math.log2(math.e) - float(LOG2_E))
# Another number than LOG2_E, so that a product with it is not computed once for two sums: each is one fused operation.
ABOUT_LOG2_E = np.nextafter(LOG2_E, np.float32(2))
# 1.5 * 2^23: a float32 of this size has no digits behind the point.
WHOLE = np.float32(3 * 2**22)
NOUGHT, ONE = np.float32(0), np.float32(1)
# Nothing below e^-87, about the least normal number, adds to a sum. A float32's exponent, off by 127, starts at bit 23.
LOWEST, BIAS, MANTISSA = np.float32(-87), np.int32(127), np.int32(23)
SIGN, BUT_SIGN, LEAST_ORDERED = np.int32(31), np.int32(2**31 - 1), np.int32(-0x7F800000)
BIT = np.uint32(1)
# Weights are added up in so many bins of heated logits; of one bin so many are sorted, at most.
NUM_BINS, MOST_SORTED = 512, 4096
# Of the hash.
BY_STEP, BY_FIRST, BY_SECOND = map(np.uint64, (STEP, FIRST, SECOND))
SHIFT_FIRST, SHIFT_SECOND, SHIFT_THIRD, SHIFT_UNIFORM, SHIFT_LEAST = map(np.uint64, (30, 27, 31, 12, 33))


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


@_compiled("float32(int32[::1], float32[::1])")
def _fill_highest(bits: Bits, highest_in: Floats) -> np.float32:
    """Fills highest_in [blocks] with the maximum of each block, and of LEAST; that of all of them."""
    highest, stretch = LEAST, len(highest_in) // STREAMS
    for at in range(len(highest_in)):
        # One block of each stretch after the other; last those that are in none.
        block = at % STREAMS * stretch + at // STREAMS if at < STREAMS * stretch else at
        highest_in[block] = _highest(bits[block * BLOCK : (block + 1) * BLOCK])
        highest = max(highest, highest_in[block])
    return highest


@_compiled("float32(float32, float32, float32)", fastmath={"contract"})
def _weight(logit: np.float32, highest: np.float32, coldness: np.float32) -> np.float32:
    """exp of a heated logit, (logit - highest) * coldness, which is rounded as torch does it; to 2e-7 of it."""
    heated = (logit - highest) * coldness
    # In this order NaN stays.
    heated = LOWEST if heated < LOWEST else heated
    # 2^whole 2^rest, rest from -.5 to .5; `shifted` has the whole number in its last bits.
    shifted = np.float32(heated * ABOUT_LOG2_E + WHOLE)
    rest = (heated * LOG2_E - (shifted - WHOLE)) + heated * LOG2_E_REST
    of_rest = ((((C5 * rest + C4) * rest + C3) * rest + C2) * rest + C1) * rest + C0
    return of_rest * np.int32((shifted.view(np.int32) + BIAS) << MANTISSA).view(np.float32)


@_compiled("void(float32[::1], float32, float32, float32[::1])")
def _weigh(logits: Floats, highest: np.float32, coldness: np.float32, weights: Floats) -> None:
    """Fills weights with those of logits, as many or fewer."""
    for at in range(len(logits)):
        weights[at] = _weight(logits[at], highest, coldness)


@_compiled("float32(float32[::1], float32, float32)", fastmath={"reassoc"})
def _weights_summed(part: Floats, highest: np.float32, coldness: np.float32) -> np.float32:
    total = np.float32(0)
    for at in range(len(part)):
        total += _weight(part[at], highest, coldness)
    return total


@_compiled("float64(float32[::1])", fastmath={"reassoc"})
def _sum(part: Floats) -> float:
    total = 0.0
    # By places: over values the loop is not vectorised.
    for at in range(len(part)):
        total += float(part[at])
    return total


@_compiled("void(float32[::1], int64[::1], float32[::1])")
def _exchange(row: Floats, changed: Ids, changes: Floats) -> None:
    """Puts changes into a row, and what stood there into changes."""
    for at in range(len(changed)):
        row[changed[at]], changes[at] = changes[at], row[changed[at]]


@_compiled("float64(float32[::1], int64[::1], float32[::1], float32, float32)")
def total_in_double(row: Floats, changed: Ids, changes: Floats, highest: np.float32, coldness: np.float32) -> float:
    """The total of `summed`, off by no more than its weights are: these alone are in float32."""
    weights, total = np.empty(BLOCK, dtype=np.float32), 0.0
    _exchange(row, changed, changes)
    for start in range(0, len(row), BLOCK):
        part = row[start : start + BLOCK]
        _weigh(part, highest, coldness, weights)
        total += _sum(weights[: len(part)])
    _exchange(row, changed, changes)
    return total


@intrinsic  # type: ignore[untyped-decorator]
def _high_bits(typing: Any, row: Any, start: Any, floor: Any) -> Any:
    """Of the PART tokens of a row from `start` on a bit each, the first the lowest: whether it is no lower than the
    floor. As vectors of LLVM, since a loop that sets bits is not vectorised."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        many, places = ir.VectorType(ir.FloatType(), PART), ir.VectorType(ir.IntType(32), PART)
        first = builder.gep(context.make_array(row)(context, builder, arguments[0]).data, [arguments[1]])
        logits = builder.load(builder.bitcast(first, many.as_pointer()), align=4)
        lone = builder.insert_element(ir.Constant(many, ir.Undefined), arguments[2], ir.Constant(ir.IntType(32), 0))
        floors = builder.shuffle_vector(lone, lone, ir.Constant(places, [0] * PART))
        return builder.bitcast(builder.fcmp_ordered(">=", logits, floors), ir.IntType(PART))

    return types.uint32(row, types.int64, types.float32), build


@intrinsic  # type: ignore[untyped-decorator]
def _lowest_place(typing: Any, bits: Any) -> Any:
    """Where the lowest 1 of a uint32 stands."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.zext(builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0)), ir.IntType(64))

    return types.int64(types.uint32), build


@intrinsic  # type: ignore[untyped-decorator]
def _num_ones(typing: Any, bits: Any) -> Any:
    """How many 1s a uint32 has."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.zext(builder.ctpop(arguments[0]), ir.IntType(64))

    return types.int64(types.uint32), build


@_compiled(f"{KEPT}(float32[::1], float32[::1], float32, float32, float32)")
def _high(
    row: Floats, highest_in: Floats, floor: np.float32, highest: np.float32, coldness: np.float32
) -> tuple[Ids, Floats]:
    """The tokens that are no lower than the floor, ascending, and their heated logits."""
    num_parts, num_high, count = len(row) // PART, 0, 0
    starts, bits = np.empty(num_parts + 1, dtype=np.int64), np.empty(num_parts + 1, dtype=np.uint32)
    # Without branches on what a part holds, which could not be foretold.
    for block in range(len(highest_in)):
        if highest_in[block] >= floor:
            for part in range(block * PARTS, min((block + 1) * PARTS, num_parts)):
                starts[num_high] = part * PART
                bits[num_high] = _high_bits(row, part * PART, floor)
                count += _num_ones(bits[num_high])
                num_high += bits[num_high] != 0
    # Behind them the last ones of the row, that are no part.
    ids, place = np.empty(count + PART, dtype=np.int64), 0
    for at in range(num_high):
        left = bits[at]
        while left:
            ids[place] = starts[at] + _lowest_place(left)
            place += 1
            left &= left - BIT
    for token in range(num_parts * PART, len(row)):
        ids[place] = token
        place += row[token] >= floor
    ids = ids[:place]
    values = np.empty(place, dtype=np.float32)
    for at in range(place):
        values[at] = (row[ids[at]] - highest) * coldness
    return ids, values


@_compiled(
    "Tuple((float64, float64, float32[::1], float64[::1], int64[::1], float32[::1]))(float32[::1], int64[::1],"
    " float32[::1], float32, float64)"
)
def summed(
    row: Floats, changed: Ids, changes: Floats, coldness: np.float32, depth: float
) -> tuple[float, float, Floats, NDArray[np.float64], Ids, Floats]:
    """Of a row [vocab] the maximum, and the sum of exp((logit - maximum) * coldness), to 2e-7 of it: NaN where the row
    has NaN or an infinite maximum, or forbids every token. Then of each block [blocks] its maximum, and of LEAST, and
    its sum; and what is `above` the depth, where that is not 0.

    changed: tokens, ascending, whose logits are `changes` instead.
    """
    highest_in = np.empty(-(-len(row) // BLOCK), dtype=np.float32)
    sums = np.empty(len(highest_in))
    # The row has its changes for the time of the loops.
    _exchange(row, changed, changes)
    highest = _fill_highest(row.view(np.int32), highest_in)
    for block in range(len(sums)):
        sums[block] = _weights_summed(row[block * BLOCK : (block + 1) * BLOCK], highest, coldness)
    floor = np.float32(max(highest - depth / coldness, LEAST)) if depth > 0 else np.float32(math.inf)
    ids, values = _high(row, highest_in, floor, highest, coldness)
    _exchange(row, changed, changes)
    return float(highest), sums.sum(), highest_in, sums, ids, values


@_compiled(f"{KEPT}(float32[::1], int64[::1], float32[::1], float32, float32, float32[::1], float32)")
def above(
    row: Floats,
    changed: Ids,
    changes: Floats,
    coldness: np.float32,
    highest: np.float32,
    highest_in: Floats,
    floor: np.float32,
) -> tuple[Ids, Floats]:
    """The tokens of a row, changed as in `summed`, that are no lower than the floor, ascending, and their heated
    logits, (logit - highest) * coldness."""
    _exchange(row, changed, changes)
    ids, values = _high(row, highest_in, floor, highest, coldness)
    _exchange(row, changed, changes)
    return ids, values


@_compiled("Tuple((int64, float64))(float64[::1], float64)")
def _passed(sums: NDArray[np.float64], wanted: float) -> tuple[int, float]:
    """The first of the sums with which a running sum passes `wanted`, and the running sum before it."""
    before = 0.0
    for block in range(len(sums)):
        if before + sums[block] > wanted:
            return block, before
        before += sums[block]
    return len(sums), before


@_compiled("int64(float32[::1], int64, float64, float64, float64)")
def _token_passing(weights: Floats, first: int, before: float, wanted: float, margin: float) -> int:
    """The token at which the running sum of weights, of tokens from `first` on, passes `wanted`; -1 where it passes
    that within the margin of a token's edge, or not at all. before: what the tokens before sum to."""
    for at in range(len(weights)):
        own = float(weights[at])
        if before + own > wanted:
            return first + at if before + margin < wanted < before + own - margin else -1
        before += own
    return -1


@_compiled("int64(float32[::1], float32, float32, float64[::1], float64, float64)")
def drawn(
    row: Floats, highest: np.float32, coldness: np.float32, sums: NDArray[np.float64], wanted: float, margin: float
) -> int:
    """The token of a row, summed before, at which the running sum of its weights passes `wanted`; -1 where it passes
    that within the margin of a token's edge."""
    block, before = _passed(sums, wanted)
    part, first = row[block * BLOCK : (block + 1) * BLOCK], block * BLOCK
    weights = np.empty(len(part), dtype=np.float32)
    _weigh(part, highest, coldness, weights)
    token: int = _token_passing(weights, first, before, wanted, margin)
    return token


@_compiled("float32(float32, float32, float32, float32, float32, float32, float32, float32)", fastmath={"contract"})
def _left_of(
    logit: np.float32,
    highest: np.float32,
    coldness: np.float32,
    scale: np.float32,
    other: np.float32,
    other_highest: np.float32,
    other_coldness: np.float32,
    other_scale: np.float32,
) -> np.float32:
    own = scale * _weight(logit, highest, coldness) - other_scale * _weight(other, other_highest, other_coldness)
    return own if own > 0 else np.float32(0)


@_compiled(
    "float64(float32[::1], float32, float32, float32, float32[::1], float32, float32, float32, float64[::1])",
    fastmath={"reassoc"},
)
def left(
    row: Floats,
    highest: np.float32,
    coldness: np.float32,
    scale: np.float32,
    other: Floats,
    other_highest: np.float32,
    other_coldness: np.float32,
    other_scale: np.float32,
    sums: NDArray[np.float64],
) -> float:
    """The sum of max(p - q, 0), p and q the scaled weights of two rows [vocab], summed before. Fills sums [blocks]."""
    for block in range(len(sums)):
        total = np.float32(0)
        for at in range(block * BLOCK, min((block + 1) * BLOCK, len(row))):
            total += _left_of(row[at], highest, coldness, scale, other[at], other_highest, other_coldness, other_scale)
        sums[block] = total
    mass: float = sums.sum()
    return mass


@_compiled(
    "int64(float32[::1], float32, float32, float32, float32[::1], float32, float32, float32, float64[::1], float64,"
    " float64)"
)
def drawn_of_left(
    row: Floats,
    highest: np.float32,
    coldness: np.float32,
    scale: np.float32,
    other: Floats,
    other_highest: np.float32,
    other_coldness: np.float32,
    other_scale: np.float32,
    sums: NDArray[np.float64],
    wanted: float,
    margin: float,
) -> int:
    """The same as `drawn`, by max(p - q, 0) of `left`."""
    block, before = _passed(sums, wanted)
    weights, first = row[block * BLOCK : (block + 1) * BLOCK].copy(), block * BLOCK
    for at in range(len(weights)):
        own = other[first + at]
        weights[at] = _left_of(weights[at], highest, coldness, scale, own, other_highest, other_coldness, other_scale)
    token: int = _token_passing(weights, first, before, wanted, margin)
    return token


@_compiled("float64(float32[::1], float32[::1])")
def weights_of_kept(values: Floats, weights: Floats) -> float:
    """Fills weights [n] with exp of values [n], all from -87 to 0, to 2e-7 of it; their sum."""
    _weigh(values, NOUGHT, ONE, weights)
    total: float = _sum(weights)
    return total


@_compiled("int64(float32[::1], float64, float64)")
def drawn_of_kept(weights: Floats, wanted: float, margin: float) -> int:
    """The same as `drawn`, of weights [kept]: a column."""
    column: int = _token_passing(weights, 0, 0.0, wanted, margin)
    return column


@_compiled("float64(int64[::1], float32[::1], float64, int64[::1], float32[::1], float64, float32[::1])")
def left_of_kept(
    ids: Ids, weights: Floats, scale: float, other_ids: Ids, other_weights: Floats, other_scale: float, left: Floats
) -> float:
    """The same as `left`, of the weights of two sets of tokens, ascending, [kept] and [others]. Fills left [kept]."""
    mass, other = 0.0, 0
    for at in range(len(ids)):
        while other < len(other_ids) and other_ids[other] < ids[at]:
            other += 1
        own = scale * weights[at]
        if other < len(other_ids) and other_ids[other] == ids[at]:
            own -= other_scale * other_weights[other]
        left[at] = max(own, 0.0)
        mass += left[at]
    return mass


@_compiled("UniTuple(int64, 2)(float32[::1], float64, float64, float64)")
def _last_of(ordered: Floats, before: float, least_sum: float, most_sum: float) -> tuple[int, int]:
    """Of values [n], ascending: where the one stands, from the highest down, with which exp of them, added to `before`,
    sums to most_sum or more, and how many of its equals were added; -1 where it is not the first that sums to
    least_sum or more, and where none does."""
    weights = np.empty(len(ordered), dtype=np.float32)
    _weigh(ordered, NOUGHT, ONE, weights)
    num_equal = 0
    for at in range(len(ordered) - 1, -1, -1):
        if before >= least_sum:
            return -1, 0
        num_equal = num_equal + 1 if at + 1 < len(ordered) and ordered[at] == ordered[at + 1] else 1
        before += weights[at]
        if before >= most_sum:
            return at, num_equal
    return -1, 0


@_compiled("Tuple((int64, int64[::1], float32[::1]))(int64[::1], float32[::1], float64, float64, float64)")
def fewest(ids: Ids, values: Floats, highest_left: float, least_sum: float, most_sum: float) -> tuple[int, Ids, Floats]:
    """Of tokens, ascending, and their values [n], those of the highest values, of equals the first: as few as sum, exp
    of each, to least_sum or more, and to most_sum or more. How many they are comes first. Values are from -87 to 0.

    -1 where all of them sum to less. 0 where it is not certain which they are: one sum is reached before the other, the
    last is no higher than highest_left, or too many are nearly equal. None of them are given then.
    """
    weights, bins = np.empty(len(values), dtype=np.float32), np.empty(len(values), dtype=np.int32)
    _weigh(values, NOUGHT, ONE, weights)
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
        return -1, ids[:0], values[:0]
    within = values[bins == last]
    if len(within) > MOST_SORTED:
        return 0, ids[:0], values[:0]
    within.sort()
    place, num_equal = _last_of(within, before, least_sum, most_sum)
    if place < 0 or within[place] <= highest_left:
        return 0, ids[:0], values[:0]
    least, count, highest = within[place], 0, np.empty(len(values), dtype=np.int64)
    for at in range(len(values)):
        is_equal = values[at] == least and num_equal > 0
        highest[count] = at
        count += values[at] > least or is_equal
        num_equal -= is_equal
    return count, ids[highest[:count]], values[highest[:count]]


@_compiled("void(float32[::1], float64[::1])")
def summed_by_block(row: Floats, sums: NDArray[np.float64]) -> None:
    """Fills sums [blocks] with the sum, in float64, of each BLOCK of a row [columns]; the last may be shorter."""
    for block in range(len(sums)):
        sums[block] = _sum(row[block * BLOCK : (block + 1) * BLOCK])


@_compiled("uint64(uint64, int64)")
def _first_bits(key: np.uint64, token: int) -> np.uint64:
    """The hash of a token, right in its first bits alone, as that of `gumbel.first_bits`."""
    x = key + np.uint64(token + 1) * BY_STEP
    x = (x ^ (x >> SHIFT_FIRST)) * BY_FIRST
    return (x ^ (x >> SHIFT_SECOND)) * BY_SECOND


@_compiled("float64(uint64)")
def _gumbel(first_bits: np.uint64) -> float:
    """The noise of a token, up to rounding, as that of `gumbel.gumbel`."""
    bits = (first_bits ^ (first_bits >> SHIFT_THIRD)) >> SHIFT_UNIFORM
    return -math.log(-math.log((float(bits) + 0.5) / 2.0**52))


@_compiled("int64(uint64, float32[::1], float32[::1], float32, float32, float64, float64, float64, float64)")
def noisy_best(
    key: np.uint64,
    row: Floats,
    highest_in: Floats,
    highest: np.float32,
    coldness: np.float32,
    log_total: float,
    likely: float,
    slack: float,
    margin: float,
) -> int:
    """argmax log p + G of a row, summed before, where G is the noise of a key; -1 where another token's sum comes as
    near to it as the margin, or no token's log p is `likely`.

    slack: by how much a noise may be off for which the first bits of hashes are compared.
    """
    floor = np.float32(highest + (likely + log_total) / coldness)
    ids, values = _high(row, highest_in, floor, highest, coldness)
    best, highest_sum, next_sum = -1, -math.inf, -math.inf
    for at in range(len(ids)):
        own = values[at] - log_total + _gumbel(_first_bits(key, ids[at]))
        if own > highest_sum:
            best, highest_sum, next_sum = ids[at], own, highest_sum
        elif own > next_sum:
            next_sum = own
    if not len(ids):
        return -1
    least_uniform = math.exp(-math.exp(slack - highest_sum + likely))
    least = np.uint64(max(0, int(least_uniform * 2.0**31) - 1)) << SHIFT_LEAST
    for token in range(len(row)):
        first_bits = _first_bits(key, token)
        if first_bits >= least and row[token] < floor:
            own = (row[token] - highest) * coldness - log_total + _gumbel(first_bits)
            if own > highest_sum:
                best, highest_sum, next_sum = token, own, highest_sum
            elif own > next_sum:
                next_sum = own
    return best if highest_sum - next_sum > margin else -1


@_compiled("int64(uint64, int64, uint64, int64[::1])")
def hashed_above(key: np.uint64, vocab_size: int, least: np.uint64, ids: Ids) -> int:
    """Fills ids [vocab] with the tokens whose hash, right in its first bits alone as that of `gumbel.first_bits`, is no
    lower; how many they are."""
    count = 0
    for token in range(vocab_size):
        if _first_bits(key, token) >= least:
            ids[count] = token
            count += 1
    return count

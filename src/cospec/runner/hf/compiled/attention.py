"""Attention to the keys and values of the tokens before.

Tokens that follow one another, and the heads that share keys and values, are computed together, a block at a time, for
which keys and values are read once. The bits of a token's outputs are independent of its block: each score is a sum of
its own, and values are added up in chunks that begin at fixed positions, those that a token does not see times 0.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .arithmetic import SUMMED, exp
from .factors import keep_factors
from .pool import inlined, share_of, thread
from .tiles import CHUNK, FLOAT32, MOST_ROWS, PANEL, PANELS_AT_ONCE, panels_of, shuffled
from .views import floats, ids, matrix

# Numbers in a register, and keys of which scores are computed at once.
_LANES = 8
# Keys that stay in a core's nearest cache while a block's queries read them.
_KEYS_AT_ONCE = 64
_INT, _LONG, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_FLOATS = ir.VectorType(_FLOAT, _LANES)


def room(share: int, longest: int, dim: int) -> int:
    """Numbers that a thread needs room for. longest: positions of a text."""
    return max(share, MOST_ROWS) * (longest + dim + 1)


@inlined()
def own_address(args: Any) -> Any:
    """The address of this thread's own room."""
    return args.own + 4 * args.own_width * thread()


@inlined()
def _token(args: Any, place: int, is_last: bool) -> Any:
    """The token at a place among those whose outputs are computed."""
    return ids(args.chosen, args.num_chosen)[place] if is_last else place


@inlined()
def _seen_from(end: int, window: int) -> Any:
    """The first position that the token before `end` sees. window: 0 for none."""
    return max(0, end - window) if window > 0 else 0


@inlined()
def offset_of(args: Any, cache: Any, slot: int, head: int, position: int) -> Any:
    """Bytes in front of a position's keys, and of its values."""
    return 4 * args.head_dim * ((slot * args.kv_heads + head) * cache.positions + position)


def _paired(builder: Any, one: Any, other: Any) -> Any:
    """Sums of neighbours, of one and of the other, within each half."""
    even, odd = [0, 2, 8, 10, 4, 6, 12, 14], [1, 3, 9, 11, 5, 7, 13, 15]
    return builder.fadd(shuffled(builder, one, other, even), shuffled(builder, one, other, odd))


def _added_up(builder: Any, sums: list[Any]) -> Any:
    """The sum of each of the registers' numbers, in one order whatever stands beside it. sums: _LANES registers."""
    while len(sums) > 2:
        sums = [_paired(builder, *pair) for pair in zip(sums[::2], sums[1::2], strict=True)]
    one, other = sums
    low, high = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]
    return builder.fadd(shuffled(builder, one, other, low), shuffled(builder, one, other, high))


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _dots(_: Any, num_keys: Any, places: Any) -> Any:
    """Fills out [num_keys] with a query's products with so many keys, _LANES or one.

    places: addresses of the query, of the first key, bytes to the next one, how many times _LANES dimensions are read,
    and the address of out.
    """
    count = num_keys.literal_value

    def codegen(context: Any, builder: Any, _: Any, args: Any) -> Any:
        query, keys, by_key, parts, out = cgutils.unpack_tuple(builder, args[1])
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_FLOATS, [_FLOATS] * 3), f"llvm.fma.v{_LANES}f32"
        )

        def loaded(address: Any) -> Any:
            return builder.load(builder.inttoptr(address, _FLOATS.as_pointer()), align=4)

        nothing = ir.Constant(_FLOATS, [0.0] * _LANES)
        before = builder.basic_block
        test, loop, behind = map(builder.append_basic_block, ("test", "dimensions", "sums"))
        builder.branch(test)
        builder.position_at_end(test)
        part = builder.phi(_LONG)
        sums = [builder.phi(_FLOATS) for _ in range(count)]
        builder.cbranch(builder.icmp_signed("<", part, parts), loop, behind)
        builder.position_at_end(loop)
        bytes_before = builder.mul(part, ir.Constant(_LONG, 4 * _LANES))
        factor = loaded(builder.add(query, bytes_before))
        starts = [builder.add(keys, builder.mul(by_key, ir.Constant(_LONG, at))) for at in range(count)]
        added = [
            builder.call(fma, (loaded(builder.add(start, bytes_before)), factor, known))
            for start, known in zip(starts, sums, strict=True)
        ]
        following = builder.add(part, ir.Constant(_LONG, 1))
        builder.branch(test)
        part.add_incoming(ir.Constant(_LONG, 0), before)
        part.add_incoming(following, loop)
        for known, new in zip(sums, added, strict=True):
            known.add_incoming(nothing, before)
            known.add_incoming(new, loop)
        builder.position_at_end(behind)
        totals = _added_up(builder, [*sums, *[nothing] * (_LANES - count)])
        if count == _LANES:
            builder.store(totals, builder.inttoptr(out, _FLOATS.as_pointer()), align=4)
        else:
            first = builder.extract_element(totals, ir.Constant(_INT, 0))
            builder.store(first, builder.inttoptr(out, _FLOAT.as_pointer()))
        return context.get_dummy_value()

    return types.void(num_keys, places), codegen


@inlined(fastmath={"contract"})
def _score(query: int, keys: int, dim: int, scale: Any, scores: int, count: int) -> None:
    """scores [count] = query [dim] . keys [count, dim] * scale, of addresses."""
    parts, at = dim // _LANES, 0
    while at < count:
        if count - at < _LANES <= count:
            # The last ones once more, together with those before.
            at = count - _LANES
        places = (query, keys + 4 * dim * at, 4 * dim, parts, scores + 4 * at)
        if count < _LANES:
            _dots(1, places)
            at += 1
        else:
            _dots(_LANES, places)
            at += _LANES
    of_query, of_keys, found = floats(query, dim), matrix(keys, count, dim), floats(scores, count)
    for place in range(parts * _LANES, dim):
        for at in range(count):
            found[at] += of_query[place] * of_keys[at, place]
    for at in range(count):
        found[at] *= scale


@inlined(fastmath=SUMMED)
def _shares_of(scores: Any) -> Any:
    """scores [n] become exp of their distance to the highest; their sum."""
    highest, total = np.float32(-np.inf), np.float32(0)
    for at in range(len(scores)):
        highest = max(highest, scores[at])
    for at in range(len(scores)):
        scores[at] = exp(scores[at] - highest)
    for at in range(len(scores)):
        total += scores[at]
    return total


@inlined(fastmath={"contract"})
def _add_values(shares: int, values: int, out: int, shape: Any, start: int) -> None:
    """out [rows, dim] = shares [rows, count] @ values [count, dim], of addresses.

    shape: rows, count and dim. start: the position of the first value.
    """
    rows, count, dim = shape
    num_panels = dim // PANEL
    added = floats(out, rows * dim)
    added[:] = np.float32(0)
    begin = 0
    while begin < count:
        num = min(CHUNK - (start + begin) % CHUNK, count - begin)
        of_shares, of_values = shares + 4 * begin, values + 4 * dim * begin
        for panel in range(0, num_panels, PANELS_AT_ONCE):
            at, behind = of_values + 4 * PANEL * panel, out + 4 * PANEL * panel
            places = (at, 4 * PANEL, 4 * dim, 0, of_shares, 4 * count, num, behind, 4 * dim, behind, 4 * dim)
            panels_of(FLOAT32, min(PANELS_AT_ONCE, num_panels - panel), rows, places)
        begin += num
    of_rows, of_values = matrix(shares, rows, count), matrix(values, count, dim)
    for row in range(rows):
        for place in range(num_panels * PANEL, dim):
            total = np.float32(0)
            for at in range(count):
                total += of_rows[row, at] * of_values[at, place]
            added[row * dim + place] = total


@inlined()
def _block(stored: int, args: Any, window: int, cache: Any, head: int, places: Any, is_last: bool) -> None:
    """The outputs of tokens of one slot for the heads that share a head's keys and values. places: the first one's, and
    how many."""
    numba.literally(stored)
    place, count = places
    dim, share = args.head_dim, args.heads // args.kv_heads
    positions, slots = ids(args.positions, args.num_tokens), ids(args.slots, args.num_tokens)
    token = _token(args, place, is_last)
    start, slot = _seen_from(positions[token] + 1, window), slots[token]
    stop = positions[_token(args, place + count - 1, is_last)] + 1
    length, num_rows = stop - start, count * share
    scores = own_address(args)
    totals, out = scores + 4 * num_rows * length, scores + 4 * num_rows * (length + 1)
    offset = offset_of(args, cache, slot, head, 0)
    _score_block(args, window, cache.keys + offset, (place, num_rows, head * share, start, stop), is_last, scores)
    of_rows = floats(totals, num_rows)
    for index in range(num_rows):
        end = positions[_token(args, place + index // share, is_last)] + 1
        first = _seen_from(end, window)
        own = floats(scores + 4 * index * length, length)
        own[: first - start] = np.float32(0)
        own[end - start :] = np.float32(0)
        of_rows[index] = _shares_of(own[first - start : end - start])
    _add_values(scores, cache.values + offset + 4 * dim * start, out, (num_rows, length, dim), start)
    for index in range(num_rows):
        row, behind = place + index // share, dim * (head * share + index % share)
        attended = args.attended + 4 * (dim * args.heads * row + behind)
        given, total, found = floats(attended, dim), of_rows[index], floats(out + 4 * dim * index, dim)
        for at in range(dim):
            given[at] = found[at] / total
        keep_factors(stored, args, row, behind, attended, dim)


@inlined()
def _score_block(args: Any, window: int, keys: int, block: Any, is_last: bool, scores: int) -> None:
    """Scores [queries, stop - start], of the positions that each query sees.

    keys: address of those of position 0. block: the first place, how many queries, the first one's head, and start and
    stop of the positions.
    """
    place, num_rows, of_head, start, stop = block
    dim, scale, share = args.head_dim, floats(args.floats, 3)[0], args.heads // args.kv_heads
    positions = ids(args.positions, args.num_tokens)
    for low in range(start, stop, _KEYS_AT_ONCE):
        for index in range(num_rows):
            row = _token(args, place + index // share, is_last)
            end = positions[row] + 1
            first = max(low, _seen_from(end, window))
            last = min(low + _KEYS_AT_ONCE, end)
            if first < last:
                query = args.qkv + 4 * (args.qkv_width * row + dim * (of_head + index % share))
                found = scores + 4 * (index * (stop - start) + first - start)
                _score(query, keys + 4 * dim * first, dim, scale, found, last - first)


@inlined()
def attend(stored: int, args: Any, window: int, cache: Any, num_places: int, is_last: bool) -> None:
    """This thread's share of the outputs of so many tokens: the first ones, or in the last layer those that are chosen.

    stored: see `product`. window: 0 for none.
    """
    numba.literally(stored)
    slots, together = ids(args.slots, args.num_tokens), max(1, MOST_ROWS * args.kv_heads // args.heads)
    item, stop = share_of(num_places * args.kv_heads)
    while item < stop:
        head, place = item // num_places, item % num_places
        most, count = min(together, num_places - place, stop - item), 1
        slot = slots[_token(args, place, is_last)]
        while count < most and slots[_token(args, place + count, is_last)] == slot:
            count += 1
        _block(stored, args, window, cache, head, (place, count), is_last)
        item += count

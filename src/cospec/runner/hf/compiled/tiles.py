"""Products with weights in panels.

Each output is summed over the same columns in the same order, whatever rows stand beside it: a row's bits depend on the
row alone. A weight is read from memory once, and while some are multiplied those that follow are on their way: a
product of few rows waits for memory, and six rows then take hardly longer than one.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numba
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from .pool import SOURCES, compiled, inlined, num_threads, run, thread

# Outputs that stand side by side in a panel, and panels that one thread takes at once: sixteen registers of eight
# numbers hold six rows of a panel, or one row of four; 32 registers of sixteen hold six rows of four.
PANEL, PANELS_AT_ONCE = 16, 4
MOST_ROWS = 6
# Columns that are summed by themselves: one long sum loses more than a sum of short ones.
CHUNK = 128
# Fewer multiplications are not worth a second thread.
FEWEST_A_THREAD = 2**16
# Panels of float32 that are prefetched side by side where one at a time is multiplied: memory answers two sequences of
# addresses faster than one.
_SEQUENCES = 2

# Types that weights are stored in, by number.
STORED = (torch.float32, torch.bfloat16, torch.float16)
FLOAT32, BFLOAT16, FLOAT16 = range(len(STORED))
# Weights of bfloat16 by rows of bfloat16: two columns at a time, in one operation, which adds in float32.
PAIRED = len(STORED)
# What numba compiles for: this CPU, unless its settings say otherwise.
_FEATURES = (get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES).split(",")
# Whether that has the operation, and 32 registers of sixteen numbers.
CAN_PAIR, HAS_WIDE_REGISTERS = "+avx512bf16" in _FEATURES, "+avx512f" in _FEATURES


class _Bfloat(ir.Type):  # type: ignore[misc]
    """bfloat16, which llvmlite has no name for."""

    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bfloat)

    def __hash__(self) -> int:
        return hash(_Bfloat)


_SHORT, _INT, _LONG, _FLOAT, _BFLOAT = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType(), _Bfloat()
_FLOATS, _INTS, _PAIRS = ir.VectorType(_FLOAT, PANEL), ir.VectorType(_INT, PANEL), ir.VectorType(_BFLOAT, 2 * PANEL)


def shuffled(builder: Any, one: Any, other: Any, lanes: Sequence[int]) -> Any:
    """These lanes of two registers, those of the other behind those of the one."""
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_INT, len(lanes)), lanes))


def _loaded(builder: Any, address: Any, kind: Any, size: int) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=size)


def _weights(builder: Any, address: Any, stored: int) -> Any:
    """PANEL weights from an address on, in float32; of PAIRED, of two columns that stand there one behind the other,
    pairs of both."""
    if stored == FLOAT32:
        return _loaded(builder, address, _FLOATS, 4)
    if stored == FLOAT16:
        return builder.fpext(_loaded(builder, address, ir.VectorType(ir.HalfType(), PANEL), 2), _FLOATS)
    if stored == BFLOAT16:
        # It is the upper half of a float32.
        wide = builder.zext(_loaded(builder, address, ir.VectorType(_SHORT, PANEL), 2), _INTS)
        return builder.bitcast(builder.shl(wide, ir.Constant(_INTS, [16] * PANEL)), _FLOATS)
    both = _loaded(builder, address, ir.VectorType(_SHORT, 2 * PANEL), 2)
    order = [at + column * PANEL for at in range(PANEL) for column in range(2)]
    return builder.bitcast(shuffled(builder, both, both, order), _PAIRS)


def _factors(builder: Any, address: Any, stored: int) -> Any:
    """PANEL times the number at an address; of PAIRED, the pair."""
    value = _loaded(builder, address, _INT if stored == PAIRED else _FLOAT, 4)
    undefined = ir.Constant(_INTS if stored == PAIRED else _FLOATS, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_INT, 0))
    repeated = shuffled(builder, first, undefined, [0] * PANEL)
    return builder.bitcast(repeated, _PAIRS) if stored == PAIRED else repeated


def _added(builder: Any, weights: Any, factors: Any, total: Any, stored: int) -> Any:
    """total + weights * factors, as `_weights` and `_factors` give them."""
    if stored == PAIRED:
        function, given = ir.FunctionType(_FLOATS, [_FLOATS, _PAIRS, _PAIRS]), (total, weights, factors)
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
    else:
        function, given = ir.FunctionType(_FLOATS, [_FLOATS] * 3), (weights, factors, total)
        name = f"llvm.fma.v{PANEL}f32"
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), given)


def _sums(builder: Any, shape: tuple[int, int], stored: int, *places: Any) -> dict[tuple[int, int], Any]:
    """A loop over columns, and the sums [rows, panels] that it holds in registers. places: see `_tile`."""
    weights, by_panel, by_column, ahead, by_ahead, x, by_row, columns = places
    rows, panels = shape
    sequences = _SEQUENCES if stored == FLOAT32 and panels == 1 else panels
    cells = [(row, panel) for row in range(rows) for panel in range(panels)]
    of_panels = [_at(builder, weights, by_panel, panel) for panel in range(panels)]
    of_rows = [_at(builder, x, by_row, row) for row in range(rows)]
    before, loop, behind = (builder.basic_block, *map(builder.append_basic_block, ("columns", "sums")))
    builder.branch(loop)
    builder.position_at_end(loop)
    column = builder.phi(_LONG)
    sums = {cell: builder.phi(_FLOATS) for cell in cells}
    of_column = [builder.add(start, builder.mul(column, by_column)) for start in of_panels]
    for sequence in range(sequences):
        start = _at(builder, ahead, by_panel, sequence)
        _prefetch(builder, builder.add(start, builder.mul(column, by_ahead)))
    factors = [_factors(builder, _at(builder, start, column, 4), stored) for start in of_rows]
    weights_of = [_weights(builder, address, stored) for address in of_column]
    added = {
        (row, panel): _added(builder, weights_of[panel], factors[row], sums[row, panel], stored) for row, panel in cells
    }
    following = builder.add(column, ir.Constant(_LONG, 1))
    column.add_incoming(ir.Constant(_LONG, 0), before)
    column.add_incoming(following, loop)
    for cell in cells:
        sums[cell].add_incoming(ir.Constant(_FLOATS, [0.0] * PANEL), before)
        sums[cell].add_incoming(added[cell], loop)
    builder.cbranch(builder.icmp_signed("<", following, columns), loop, behind)
    builder.position_at_end(behind)
    return added


def _at(builder: Any, base: Any, step: Any, count: int) -> Any:
    """The address `count` steps behind a base."""
    return builder.add(base, builder.mul(step, ir.Constant(_LONG, count)))


def _prefetch(builder: Any, address: Any) -> None:
    """Have what stands at an address, which need not be one, brought into the cache."""
    pointer = ir.IntType(8).as_pointer()
    function = ir.FunctionType(ir.VoidType(), [pointer, _INT, _INT, _INT])
    prefetch = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
    # To read it, in all levels, as data.
    builder.call(prefetch, (builder.inttoptr(address, pointer), *(ir.Constant(_INT, how) for how in (0, 3, 1))))


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _tile(_: Any, rows: Any, panels: Any, stored: Any, places: Any) -> Any:
    """Fills outputs [rows, panels * PANEL] with what was before and the products of so many columns.

    places: addresses, with distances in bytes: of the weights of the first panel, to the next panel, to the next
    column; of what is prefetched of that panel, on for each column; of x, to the next row; the number of columns; of
    what was before, to the next row; of the outputs, to the next row.
    """
    shape, kind = (rows.literal_value, panels.literal_value), stored.literal_value

    def codegen(context: Any, builder: Any, _: Any, args: Any) -> Any:
        *of_sums, before, by_before, out, by_out = cgutils.unpack_tuple(builder, args[3])
        for (row, panel), total in _sums(builder, shape, kind, *of_sums).items():
            column = ir.Constant(_LONG, 4 * PANEL * panel)
            known, new = (
                builder.inttoptr(builder.add(_at(builder, start, step, row), column), _FLOATS.as_pointer())
                for start, step in ((before, by_before), (out, by_out))
            )
            builder.store(builder.fadd(builder.load(known, align=4), total), new, align=4)
        return context.get_dummy_value()

    return types.void(rows, panels, stored, places), codegen


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _rounded(_: Any, stored: Any, count: Any, source: Any, goal: Any) -> Any:
    """So many float32, PANEL or one, rounded to bfloat16; nothing for others than PAIRED, since a CPU that cannot pair
    has no operation for it. source, goal: addresses."""
    is_paired, num = stored.literal_value == PAIRED, count.literal_value

    def codegen(context: Any, builder: Any, _: Any, args: Any) -> Any:
        if is_paired:
            wide, narrow = (kind if num == 1 else ir.VectorType(kind, num) for kind in (_FLOAT, _BFLOAT))
            found = builder.fptrunc(_loaded(builder, args[2], wide, 4), narrow)
            builder.store(found, builder.inttoptr(args[3], narrow.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(stored, count, source, goal), codegen


@inlined()
def rounded(stored: int, source: int, goal: int, count: int) -> None:
    """For products of PAIRED: so many float32 at an address, rounded to bfloat16, at another."""
    numba.literally(stored)
    for at in range(0, count - PANEL + 1, PANEL):
        _rounded(stored, PANEL, source + 4 * at, goal + 2 * at)
    for at in range(count - count % PANEL, count):
        _rounded(stored, 1, source + 4 * at, goal + 2 * at)


@inlined()
def panels_of(stored: int, num_panels: int, rows: int, places: Any) -> None:
    """`_tile` of any number of rows and of panels. places: as it takes them, but of what is prefetched the distance
    from the weights alone."""
    numba.literally(stored)
    weights, by_panel, by_column, ahead, x, by_row, columns, before, by_before, out, by_out = places
    # As many panels at once as registers hold sums of: a sum waits for its last addition, and others are added to
    # meanwhile. Wide ones hold six rows of four.
    few = 4 if rows == 1 else 2 if rows == 2 or (rows == 3 and stored == FLOAT32) else 1
    at_once = 4 if HAS_WIDE_REGISTERS else few
    at_once = 1 if num_panels % at_once != 0 else at_once
    groups = (rows + MOST_ROWS - 1) // MOST_ROWS
    if stored == FLOAT32 and at_once > 1 and groups == 1:
        # Nothing is prefetched then: memory alone is waited for, and the processor's own prefetching of several panels
        # is better. Several groups of rows give it pauses.
        ahead = 0
    sequences = _SEQUENCES if stored == FLOAT32 and at_once == 1 else 1
    # Each tile prefetches its part, so that memory works as long as all of them do.
    parts = groups * sequences
    step = (by_column + parts - 1) // parts
    for panel in range(0, num_panels, at_once):
        behind = panel * PANEL * 4
        of_sequence = panel % sequences
        first = weights + (panel - of_sequence) * by_panel + ahead
        for group in range(groups):
            # As many rows in each, since few of them take hardly less time than six.
            row = rows * group // groups
            num = rows * (group + 1) // groups - row
            prefetched = first + (of_sequence * groups + group) * columns * step
            of_weights = (weights + panel * by_panel, by_panel, by_column, prefetched, step)
            known, new = (before + row * by_before + behind, by_before), (out + row * by_out + behind, by_out)
            own = (*of_weights, x + row * by_row, by_row, columns, *known, *new)
            # HAS_WIDE_REGISTERS is a constant: shapes that are never taken are not compiled.
            if at_once == 4 and HAS_WIDE_REGISTERS:
                _tiles(4, stored, num, own)
            elif at_once == 4:
                _tile(1, 4, stored, own)
            elif at_once == 2 and num == 2:
                _tile(2, 2, stored, own)
            elif at_once == 2:
                _tile(3, 2, stored, own)
            else:
                _tiles(1, stored, num, own)


@inlined()
def _tiles(panels: int, stored: int, rows: int, places: Any) -> None:
    """`_tile` of a number of rows that is known when it is called."""
    numba.literally(panels)
    numba.literally(stored)
    if rows == 1:
        _tile(1, panels, stored, places)
    elif rows == 2:
        _tile(2, panels, stored, places)
    elif rows == 3:
        _tile(3, panels, stored, places)
    elif rows == 4:
        _tile(4, panels, stored, places)
    elif rows == 5:
        _tile(5, panels, stored, places)
    else:
        _tile(6, panels, stored, places)


@inlined()
def _groups_of(width: int) -> Any:
    """From which group of panels to which this thread computes outputs, of so many."""
    num_groups = width // (PANELS_AT_ONCE * PANEL)
    own, threads = thread(), num_threads()
    return num_groups * own // threads, num_groups * (own + 1) // threads


@inlined()
def columns_of(width: int) -> Any:
    """From which column to which this thread computes outputs of `product`, of so many."""
    first, stop = _groups_of(width)
    return first * PANELS_AT_ONCE * PANEL, stop * PANELS_AT_ONCE * PANEL


@inlined()
def product(stored: int, weights: int, before: Any, x: Any, out: Any, shape: Any) -> None:
    """This thread's share of before [rows, width] + x [rows, columns] @ weights, into out [rows, width], which may be
    where `before` is. All are in float32 but the weights, and x where it is to be paired with them.

    stored: the number of their type, a literal; PAIRED: weights and x are in bfloat16, of an even number of columns.
    weights: their address, of [width / PANEL, columns, PANEL]. before, x, out: an address, and bytes from row to row, 0
    for one row that is before each. shape: rows, columns, and width, a multiple of `PANELS_AT_ONCE` panels.
    """
    numba.literally(stored)
    rows, columns, width = shape
    if stored == PAIRED:
        # A pair of columns takes the place of one: four bytes of each output's weights, and of each row.
        columns //= 2
    chunk = CHUNK // 2 if stored == PAIRED else CHUNK
    size = 4 if stored in (FLOAT32, PAIRED) else 2
    by_panel = columns * PANEL * size
    first, stop = _groups_of(width)
    for group in range(first, stop):
        of_group, behind = weights + group * PANELS_AT_ONCE * by_panel, group * PANELS_AT_ONCE * PANEL * 4
        known, by_known = before[0] + behind, before[1]
        new, by_new = out[0] + behind, out[1]
        for start in range(0, columns, chunk):
            of_chunk, of_x = of_group + start * PANEL * size, x[0] + 4 * start
            count = min(chunk, columns - start)
            # Weights of the next chunk, of the next panels behind the last one.
            ahead = (chunk if start + chunk < columns else PANELS_AT_ONCE * columns - start) * PANEL * size
            places = (of_chunk, by_panel, PANEL * size, ahead, of_x, x[1], count, known, by_known, new, by_new)
            panels_of(stored, PANELS_AT_ONCE, rows, places)
            known, by_known = new, by_new


@inlined()
def _linear(stored: int, arguments: Any) -> None:
    numba.literally(stored)
    given = numba.carray(arguments, 7)
    rows, columns, width = given[4], given[5], given[6]
    x = (given[2], (2 if stored == PAIRED else 4) * columns)
    product(stored, given[0], (given[1], 0), x, (given[3], 4 * width), (rows, columns, width))


@cache
def _compiled(stored: int, sources: int = SOURCES) -> int:
    def entry(arguments: Any) -> None:
        if sources:
            _linear(stored, arguments)

    return compiled(entry)


def linear(stored: int, addresses: Sequence[int], rows: int, columns: int, width: int) -> None:
    """Fills out [rows, width] with bias [width] + x [rows, columns] @ weights.

    addresses: of the weights, bias, x and out, as `product` takes them. stored: see `product`.
    """
    most_threads = rows * columns * width // FEWEST_A_THREAD
    run(_compiled(stored), (*addresses, rows, columns, width), most_threads)

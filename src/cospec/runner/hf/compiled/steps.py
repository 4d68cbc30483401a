"""A Llama-like decoder's forward pass as one compiled function, called once: between the products of a small model
Python and dispatch take longer than the products.

Each step is shared among the threads, which wait for each other behind it. Every number that a token gives is computed
in the same order whatever tokens are beside it, so that its bits are a function of the tokens before it alone.
"""

from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from .arithmetic import SUMMED, exp
from .attention import attend, offset_of
from .factors import factors_of, keep_factors
from .pool import SOURCES, barrier, compiled, inlined, run, share_of, thread
from .tiles import FLOAT32, columns_of, product
from .views import floats, group, ids

_ONE = np.float32(1)
# Gates that a thread takes at once.
_AT_ONCE = 512


class PassArguments(NamedTuple):
    """Arguments of a pass: numbers, and addresses. All rows are of float32, all ids of int64.

    layers: of `LayerArguments`. floats: the scale of scores, the epsilon of a layer's norms, that of heads' norms.
    norm: the last norm's weights. inner: gates of a token. cache: of each layer the addresses of keys and of values,
    [slots, kv_heads, positions, head_dim], and how many positions those are. chosen: [num_chosen], ascending: the
    tokens whose outputs are wanted. hidden: [tokens, hidden_width], of which dim are used. positions, slots: [tokens].
    cos, sin: [positions, head_dim], see `Rotations`.

    adapters: [tokens], the number of each token's, 0 for none. terms: of each layer those of each product; 0 where no
    token has an adapter.

    The others are room: normed [tokens, dim], in which the last norm's outputs of the chosen tokens stand in the end,
    qkv [tokens, qkv_width], attended [tokens, heads * head_dim], gates [tokens, gates_width], own [threads, own_width]
    for scores; factors [tokens, factors_width] of bfloat16, for what products of PAIRED take.
    """

    layers: int
    num_layers: int
    floats: int
    norm: int
    hidden_width: int
    qkv_width: int
    gates_width: int
    dim: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    cache: int
    num_tokens: int
    num_chosen: int
    hidden: int
    positions: int
    slots: int
    chosen: int
    adapters: int
    terms: int
    cos: int
    sin: int
    normed: int
    qkv: int
    attended: int
    gates: int
    own: int
    own_width: int
    factors: int
    factors_width: int


class LayerArguments(NamedTuple):
    """Arguments of a layer. Of each product: the addresses of weights and bias.

    before_attention, before_mlp: the addresses of norms' weights; head_norm: [heads + kv_heads, head_dim], 0 for none.
    out_bias, down_bias: 0 for none. window: tokens that are attended to at most, 0 for all.
    """

    before_attention: int
    qkv: int
    qkv_bias: int
    head_norm: int
    window: int
    out: int
    out_bias: int
    before_mlp: int
    gates: int
    gates_bias: int
    down: int
    down_bias: int


class LayerCache(NamedTuple):
    """Where a layer's keys and values stand."""

    keys: int
    values: int
    positions: int


class Term(NamedTuple):
    """What adapters add to a product, see `LowRank`: down [ranks, inputs], up [ranks, outputs], and each adapter's own
    ranks, spans [adapters + 1, 2], from the first to behind the last. ranks: 0 where they add nothing."""

    down: int
    up: int
    spans: int
    ranks: int
    outputs: int


NUM_ARGUMENTS, NUM_OF_LAYER, NUM_OF_CACHE, NUM_OF_TERM = (
    len(kind._fields) for kind in (PassArguments, LayerArguments, LayerCache, Term)
)
# Products of a layer, by the names of `fused.PRODUCTS`: terms of adapters stand in this order.
PRODUCTS = ("qkv", "out", "gate_and_up", "down")
NUM_PRODUCTS = len(PRODUCTS)
QKV, OUT, GATES, DOWN = range(NUM_PRODUCTS)


@inlined(fastmath=SUMMED)
def _normed(x: Any, weight: Any, eps: Any, out: Any) -> None:
    """out = x / sqrt(mean of x^2 + eps) * weight, [dim] each."""
    total = np.float32(0)
    for value in x:
        total += value * value
    scale = _ONE / np.sqrt(total / np.float32(len(x)) + eps)
    for at in range(len(x)):
        out[at] = x[at] * scale * weight[at]


@inlined()
def _norm_rows(stored: int, args: Any, weight: int, rows: int) -> None:
    """This thread's share of the first rows of `hidden`, into `normed`."""
    numba.literally(stored)
    eps, of_norm = floats(args.floats, 3)[1], floats(weight, args.dim)
    first, stop = share_of(rows)
    for row in range(first, stop):
        x = floats(args.hidden + 4 * args.hidden_width * row, args.dim)
        normed = args.normed + 4 * args.dim * row
        _normed(x, of_norm, eps, floats(normed, args.dim))
        keep_factors(stored, args, row, 0, normed, args.dim)


@inlined(fastmath={"contract"})
def _rotated(x: Any, cos: Any, sin: Any) -> None:
    """x [dim] in place: x * cos + roll(x) * sin, by half of its length."""
    half = len(x) // 2
    for at in range(half):
        first, second = x[at], x[at + half]
        x[at] = first * cos[at] + second * sin[at]
        x[at + half] = second * cos[at + half] + first * sin[at + half]


@inlined()
def _place_heads(args: Any, layer: Any, cache: Any) -> None:
    """This thread's share of queries and keys rotated in place, and of keys and values put into the cache."""
    dim, eps = args.head_dim, floats(args.floats, 3)[2]
    num_rotated = args.heads + args.kv_heads
    num_heads = num_rotated + args.kv_heads
    positions, slots = ids(args.positions, args.num_tokens), ids(args.slots, args.num_tokens)
    first, stop = share_of(args.num_tokens * num_heads)
    for item in range(first, stop):
        row, head = item // num_heads, item % num_heads
        x, position = floats(args.qkv + 4 * (args.qkv_width * row + dim * head), dim), positions[row]
        if head < num_rotated:
            if layer.head_norm != 0:
                _normed(x, floats(layer.head_norm + 4 * dim * head, dim), eps, x)
            _rotated(x, floats(args.cos + 4 * dim * position, dim), floats(args.sin + 4 * dim * position, dim))
        if head >= args.heads:
            stored = cache.keys if head < num_rotated else cache.values
            kv_head = (head - args.heads) % args.kv_heads
            kept = floats(stored + offset_of(args, cache, slots[row], kv_head, position), dim)
            for at in range(dim):
                kept[at] = x[at]


@inlined()
def _choose(args: Any) -> None:
    """The chosen rows of `hidden` moved to its first ones."""
    chosen = ids(args.chosen, args.num_chosen)
    for place in range(args.num_chosen):
        source = floats(args.hidden + 4 * args.hidden_width * chosen[place], args.hidden_width)
        goal = floats(args.hidden + 4 * args.hidden_width * place, args.hidden_width)
        for at in range(args.hidden_width):
            goal[at] = source[at]


@inlined()
def _gate(stored: int, args: Any, rows: int) -> None:
    """This thread's share of silu(gates) * ups, in place of the gates."""
    numba.literally(stored)
    num_parts = (args.inner + _AT_ONCE - 1) // _AT_ONCE
    first, stop = share_of(rows * num_parts)
    for item in range(first, stop):
        row, begin = item // num_parts, item % num_parts * _AT_ONCE
        count = min(_AT_ONCE, args.inner - begin)
        gates = args.gates + 4 * (args.gates_width * row + begin)
        _gated(floats(gates, count), floats(gates + 4 * args.inner, count))
        keep_factors(stored, args, row, begin, gates, count)


@inlined(fastmath={"contract"})
def _gated(gates: Any, ups: Any) -> None:
    for at in range(len(gates)):
        x = gates[at]
        power = exp(-abs(x))
        gates[at] = x * (_ONE if x >= 0 else power) / (_ONE + power) * ups[at]


@inlined(fastmath=SUMMED)
def _dot(x: Any, weights: Any) -> Any:
    total = np.float32(0)
    for at in range(len(x)):
        total += x[at] * weights[at]
    return total


@inlined(fastmath={"contract"})
def _add_scaled(factor: Any, weights: Any, out: Any) -> None:
    for at in range(len(out)):
        out[at] += factor * weights[at]


@inlined()
def _add_terms(args: Any, terms: int, which: int, x: Any, out: Any, shape: Any, is_last: bool) -> None:
    """What adapters add to a product's outputs of this thread's columns. terms: of the layer. x, out, shape: see
    `product`. is_last: whether rows are those of chosen tokens."""
    if terms == 0:
        return
    term = Term(*to_fixed_tuple(group(terms, which, NUM_OF_TERM), NUM_OF_TERM))
    if term.ranks == 0:
        return
    rows, columns, width = shape
    first, stop = columns_of(width)
    stop = min(stop, term.outputs)
    if first >= stop:
        return
    chosen, adapters = ids(args.chosen, args.num_chosen), ids(args.adapters, args.num_tokens)
    for row in range(rows):
        adapter = adapters[chosen[row] if is_last else row]
        span = ids(term.spans + 16 * adapter, 2)
        own = floats(x[0] + x[1] * row, columns)
        # Each thread sums all ranks for the columns that it adds to: they are few, and to share them takes a barrier.
        for rank in range(span[0], span[1]):
            factor = _dot(own, floats(term.down + 4 * columns * rank, columns))
            up = term.up + 4 * (term.outputs * rank + first)
            _add_scaled(factor, floats(up, stop - first), floats(out[0] + out[1] * row + 4 * first, stop - first))


@inlined()
def _add_to_hidden(stored: int, args: Any, weights: int, bias: int, x: Any, shape: Any) -> None:
    """hidden += x @ weights + bias, of this thread's columns. shape: rows of both, and columns of x."""
    numba.literally(stored)
    rows, columns = shape
    hidden = (args.hidden, 4 * args.hidden_width)
    if bias != 0:
        first, stop = columns_of(args.hidden_width)
        added = floats(bias, args.hidden_width)
        for row in range(rows):
            own = floats(args.hidden + 4 * args.hidden_width * row, args.hidden_width)
            for at in range(first, stop):
                own[at] += added[at]
    product(stored, weights, hidden, factors_of(stored, args, x), hidden, (rows, columns, args.hidden_width))


@inlined()
def _layer(stored: int, args: Any, layer: Any, cache: Any, terms: int, is_last: bool) -> None:
    """A layer's steps, with a barrier behind each. is_last: whether it is the last one, of which not all tokens are
    wanted."""
    numba.literally(stored)
    rows, dim, attended = args.num_tokens, args.dim, args.heads * args.head_dim
    normed, of_heads = (args.normed, 4 * dim), (args.attended, 4 * attended)
    qkv, gates, hidden = (args.qkv, 4 * args.qkv_width), (args.gates, 4 * args.gates_width), args.hidden_width
    _norm_rows(stored, args, layer.before_attention, rows)
    barrier()
    factors = factors_of(stored, args, normed)
    product(stored, layer.qkv, (layer.qkv_bias, 0), factors, qkv, (rows, dim, args.qkv_width))
    _add_terms(args, terms, QKV, normed, qkv, (rows, dim, args.qkv_width), False)
    barrier()
    _place_heads(args, layer, cache)
    barrier()
    if is_last:
        rows = args.num_chosen
        if thread() == 0:
            _choose(args)
    attend(stored, args, layer.window, cache, rows, is_last)
    barrier()
    _add_to_hidden(stored, args, layer.out, layer.out_bias, of_heads, (rows, attended))
    _add_terms(args, terms, OUT, of_heads, (args.hidden, 4 * hidden), (rows, attended, hidden), is_last)
    barrier()
    _norm_rows(stored, args, layer.before_mlp, rows)
    barrier()
    product(stored, layer.gates, (layer.gates_bias, 0), factors, gates, (rows, dim, args.gates_width))
    _add_terms(args, terms, GATES, normed, gates, (rows, dim, args.gates_width), is_last)
    barrier()
    _gate(stored, args, rows)
    barrier()
    _add_to_hidden(stored, args, layer.down, layer.down_bias, gates, (rows, args.inner))
    _add_terms(args, terms, DOWN, gates, (args.hidden, 4 * hidden), (rows, args.inner, hidden), is_last)
    barrier()


@inlined()
def _pass(stored: int, arguments: Any) -> None:
    numba.literally(stored)
    args = PassArguments(*to_fixed_tuple(numba.carray(arguments, (NUM_ARGUMENTS,)), NUM_ARGUMENTS))
    for index in range(args.num_layers):
        layer = LayerArguments(*to_fixed_tuple(group(args.layers, index, NUM_OF_LAYER), NUM_OF_LAYER))
        cache = LayerCache(*to_fixed_tuple(group(args.cache, index, NUM_OF_CACHE), NUM_OF_CACHE))
        is_last = index == args.num_layers - 1 and args.num_chosen < args.num_tokens
        terms = args.terms + 8 * index * NUM_PRODUCTS * NUM_OF_TERM if args.terms != 0 else 0
        _layer(stored, args, layer, cache, terms, is_last)
    # The head is no product of this pass, and takes them as they are.
    _norm_rows(FLOAT32, args, args.norm, args.num_chosen)


@cache
def _compiled(stored: int, sources: int = SOURCES) -> int:
    def entry(arguments: Any) -> None:
        if sources:
            _pass(stored, arguments)

    return compiled(entry)


def decode(stored: int, args: PassArguments, most_threads: int) -> None:
    """Compute a pass in so many threads at most. stored: of all products, see `product`."""
    run(_compiled(stored), args, most_threads)

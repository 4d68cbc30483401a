"""The tokens that top-p and top-k keep, found without sorting a vocabulary, on a CPU.

Few of a row's log-probabilities can be large: at most e^d tokens have -d or more. So the tokens among which a
threshold lies are found by comparing the row with a few depths d, and those alone are sorted. Of all others top-p reads
the sum alone: where its rounding might matter, it is taken in float64.
"""

import functools
import importlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Without compiled loops, all tokens of shorter rows are drawn from and given noise at once: that takes no longer than
# to look for few. Probabilities of shorter rows are as torch normalises them.
LEAST_SELECTED = 2**13
# Shorter rows are summed by torch, which takes those of many sequences at once.
LEAST_SUMMED = 2**11
# Shorter rows are sorted as they are: that takes no longer than to look for what to sort. Nor are they worth a look for
# what a mixture of probabilities rounds to 0.
LEAST_CUT = 2**11
# How far below 0 the candidates go, at most.
DEPTHS = (9.0, 13.0)
# By how much of itself a sum of weights may be off that is not taken token by token in float64.
ROUNDING = 5e-7
# How far weights of `kernels` lie from torch's, relative to them: 1.9e-7 over all float32's from -87 to 0, and on other
# CPUs torch's own may be off by one unit in the last place. And how far a sum of them in float64 is off.
# top-p asks whether (1 - top_p) * the kept sum is below top_p * that of the others. Both sums read the same weights:
# the difference is off by at most 2 top_p (1 - top_p) OF_WEIGHTS of the total.
OF_WEIGHTS, OF_SUMS = 4e-7, 1e-10


@functools.cache
def kernels() -> Any:
    """`cospec.core.kernels`, compiled when it is first asked for; None without a numba that knows this numpy."""
    try:
        return importlib.import_module(f"{__package__}.kernels")
    except ImportError:
        return None


def is_selected(rows: Tensor) -> bool:
    """Whether rows are long enough, and on a CPU, to be selected from."""
    return rows.shape[-1] >= LEAST_SELECTED and are_floats_here(rows)


def is_cut(rows: Tensor) -> bool:
    """The same for what top-p, top-k and min-p keep of them, as columns, and for mixtures by probabilities."""
    return rows.shape[-1] >= LEAST_CUT and are_floats_here(rows)


def are_summed(rows: Tensor) -> bool:
    """Whether compiled loops sum such rows, rather than torch."""
    is_long = rows.shape[-1] >= LEAST_SUMMED and are_floats_here(rows)
    return is_long and rows.dtype == torch.float32 and rows.is_contiguous() and kernels() is not None


def are_floats_here(rows: Tensor) -> bool:
    return rows.is_cpu and rows.dtype in (torch.float32, torch.float64)


def heated(logits: Tensor, temperature: float) -> Tensor:
    """Logits over the temperature, shifted so that their maximum is 0: it stays finite under a temperature that rounds
    to 0 in the rows' type."""
    return (logits - logits.amax(-1, keepdim=True)).mul_(1 / _in_range(temperature, torch.finfo(logits.dtype)))


def _in_range(temperature: float, kind: Any) -> float:
    """kind: what torch or numpy says of the rows' type."""
    return min(max(temperature, float(kind.tiny)), float(kind.max))


Row = NDArray[np.floating]
Kept = tuple[NDArray[np.int64], Row]
"""Of one row the tokens that are kept, ascending, and their heated logits, [kept] each."""
Changes = tuple[NDArray[np.int64], Row]
"""Tokens of a row, ascending, and the logits that they have instead, [changed] each."""
NO_CHANGES = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)


def changed(row: Row, changes: Changes) -> Row:
    """The row [vocab] with its changes: itself where there are none."""
    if not len(changes[0]):
        return row
    row = row.copy()
    row[changes[0]] = changes[1]
    return row


@dataclass(frozen=True)
class HotRow:
    """One row [vocab] under a temperature, of which few tokens are looked at.

    changes: some of its logits, where they are not those of the row. highest: the maximum of its logits; not finite
    where the row has NaN, an infinite maximum, or forbids every token. total: the sum of the tokens' weights,
    exp((logit - highest) / temperature), up to ROUNDING, where it is read. highest_in, sums: of each block of `kernels`
    the maximum, and the sum of its weights. found: by depth, what is `above` it.
    """

    logits: Row
    temperature: float
    highest: float
    total: float
    changes: Changes = NO_CHANGES
    highest_in: NDArray[np.float32] | None = None
    sums: NDArray[np.float64] | None = None
    found: Mapping[float, Kept] = field(default_factory=dict)

    @classmethod
    def of(
        cls, row: Row, temperature: float, *, is_summed: bool, changes: Changes = NO_CHANGES, depth: float = 0.0
    ) -> "HotRow":
        """is_summed: whether the total is read. depth: where not 0, that to which tokens are looked at first."""
        temperature, compiled = _in_range(temperature, np.finfo(row.dtype)), kernels()
        if compiled and is_summed and row.dtype == np.float32 and row.flags.c_contiguous:
            highest, total, highest_in, sums, *found = compiled.summed(row, *changes, 1 / temperature, depth)
            # The maximum's own weight is 1.
            highest = highest if total > 0.5 else math.nan
            return cls(row, temperature, highest, total, changes, highest_in, sums, {depth: found} if depth else {})
        row = changed(row, changes)
        best = int(row.argmax())
        highest, total = float(row[best]), math.nan
        if is_summed and math.isfinite(highest):
            total = _total(row, highest, temperature)
        return cls(row, temperature, highest, total)

    def values(self, ids: NDArray[np.int64]) -> Row:
        """Heated logits of these tokens, none of them changed, at most 0; to the bit those of `heated`."""
        with np.errstate(over="ignore"):
            values: Row = (self.logits[ids] - self.highest) * (1 / self.temperature)
        return values

    def exact_total(self) -> float:
        """The total, up to float64's rounding."""
        return _total(changed(self.logits, self.changes), self.highest, self.temperature)

    def probability(self, token: int) -> float:
        """Of a token that is not changed, to 2 ROUNDING of it."""
        return math.exp((float(self.logits[token]) - self.highest) / self.temperature) / self.total

    def drawn(self, uniform: float) -> int:
        """The token with which the running sum passes that uniform of the total; -1 where sums cannot tell."""
        own = (self.logits, self.highest, 1 / self.temperature, self.sums)
        token: int = kernels().drawn(*own, uniform * self.total, ROUNDING * self.total)
        return token

    def above(self, depth: float) -> tuple[NDArray[np.int64], Row, float]:
        """The possible tokens whose heated logits are -depth or more, ascending, and perhaps some below that; their
        heated logits; and what no other token's is higher than."""
        floor, highest_left = self._floor(depth)
        if self.highest_in is None:
            ids: NDArray[np.int64] = np.flatnonzero(self.logits >= floor)
            return ids, self.values(ids), highest_left
        if depth in self.found:
            return *self.found[depth], highest_left
        own = (self.logits, *self.changes, 1 / self.temperature, self.highest, self.highest_in)
        return *kernels().above(*own, floor), highest_left

    def _floor(self, depth: float) -> tuple[float, float]:
        """The logit of a depth, and what is no lower than the heated logits below it."""
        kind = np.finfo(self.logits.dtype)
        floor = max(self.highest - depth * self.temperature, float(kind.min))
        rounding = 4 * float(kind.eps) * (depth + (abs(self.highest) + abs(floor)) / self.temperature)
        return floor, rounding - depth if floor > kind.min else -math.inf

    def candidates(self) -> Iterator[tuple[NDArray[np.int64], Row, float]]:
        """More and more of the highest tokens: ids, heated logits, and what no other token's is higher than; last all
        that are possible, beside which -inf is left."""
        for depth in (*DEPTHS, math.inf):
            yield self.above(depth)


def kept_by_top_k(row: HotRow, top_k: int) -> Kept:
    """The tokens that are no lower than the k-th highest."""
    for ids, values, highest_left in row.candidates():
        least = -math.inf if len(ids) < top_k else float(np.partition(values, -top_k)[-top_k])
        if least > highest_left or highest_left == -math.inf:
            is_kept = values >= least
            return ids[is_kept], values[is_kept]
    raise AssertionError("the last candidates are all tokens")


def kept_by_top_p(row: HotRow, top_p: float, among: Kept | None = None) -> Kept:
    """The smallest set of most probable tokens whose sum reaches top_p, ties to the lowest id.

    among: the tokens that are possible, where not all are.
    """
    for ids, values, highest_left in row.candidates() if among is None else [(*among, -math.inf)]:
        if row.highest_in is not None and highest_left > -math.inf:
            count, *kept = _fewest(row, top_p, ids, values, highest_left)
            if count > 0:
                return kept[0], kept[1]
            if count < 0:
                continue
        ordered = np.sort(values)[::-1]
        weights = _weights(ordered)
        running = weights.cumsum(dtype=np.float64)
        are_all = highest_left == -math.inf
        edge = top_p * (running[-1] if are_all else row.total)
        if not are_all and running[-1] <= edge * (1 + ROUNDING):
            continue
        before = running - weights
        fewest, most = before.searchsorted((edge * (1 - ROUNDING), edge * (1 + ROUNDING))).tolist()
        if fewest < most:
            fewest = before.searchsorted(edge if are_all else top_p * row.exact_total())
        # The most probable one stays, whatever top_p rounds to.
        count = max(1, int(fewest))
        if are_all or ordered[count - 1] > highest_left:
            kept = _highest(values, count, ordered[count - 1])
            return ids[kept], values[kept]
    raise AssertionError("the last candidates are all tokens")


def _fewest(row: HotRow, top_p: float, *among: Any) -> Any:
    """What `kernels.fewest` finds by the row's total, or else by one in which weights alone are rounded."""
    edge = top_p * row.total
    found = kernels().fewest(*among, edge * (1 - ROUNDING), edge * (1 + ROUNDING))
    if found[0] == 0:
        edge = top_p * kernels().total_in_double(row.logits, *row.changes, row.highest, 1 / row.temperature)
        rounding = OF_SUMS + 2 * (1 - top_p) * OF_WEIGHTS
        found = kernels().fewest(*among, edge * (1 - rounding), edge * (1 + rounding))
    return found


def _total(logits: Row, highest: float, temperature: float) -> float:
    """The sum of the weights, each to the bit as torch has it, up to float64's rounding."""
    weights = torch.from_numpy(logits).sub(highest).mul_(1 / temperature).exp_()
    return float(weights.sum(dtype=torch.float64))


def _weights(values: Row) -> Row:
    """exp, to the bit as torch has it."""
    weights: Row = torch.from_numpy(values.copy()).exp_().numpy()
    return weights


def kept_by_min_p(row: HotRow, min_p: float, among: Kept | None = None) -> Kept:
    """The tokens whose probability is no lower than min_p of the highest. among: those that are possible."""
    depth = -math.log(min_p)
    if among is None:
        among = row.above(depth + 1)[:2]
    ids, values = among
    is_kept = values >= -depth
    return ids[is_kept], values[is_kept]


def _highest(values: Row, count: int, least: float) -> NDArray[np.int64]:
    """Where the `count` highest values [n] stand, down to `least`, of equals the first: [count], ascending."""
    places: NDArray[np.int64] = np.flatnonzero(values >= least)
    if len(places) == count:
        return places
    is_least = values[places] == least
    num_more = count - int((~is_least).sum())
    is_kept: NDArray[np.bool_] = ~is_least | (is_least.cumsum() <= num_more)
    return places[is_kept]

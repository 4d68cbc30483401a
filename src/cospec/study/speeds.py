"""Timed runs -> speeds, each against plain's on the same prompts."""

import math
import statistics
from collections.abc import Iterable
from collections.abc import Sequence as Values

import numpy as np

from .asked import Asked
from .intervals import studentized
from .ledger import Ledger
from .relaxed import RELAXED
from .results import ALL, OURS, PLAIN, SINGLE, Interval, Measurement, Percentiles, Speed, SpeedRow


def speed(asked: Asked, ledger: Ledger) -> Speed:
    """Every method at every concurrency, on each category and on all."""
    runs = [run for run in ledger.measurements if not run.method.startswith(RELAXED)]
    methods = list(dict.fromkeys(run.method for run in sorted(runs, key=_rank)))
    rows = []
    for concurrency in sorted({run.concurrency for run in runs}):
        at_once = [run for run in runs if run.concurrency == concurrency]
        categories = list(dict.fromkeys(run.category for run in sorted(at_once, key=lambda run: run.batch)))
        for category in [ALL, *categories] if len(categories) > 1 else [ALL]:
            here = [run for run in at_once if category in (ALL, run.category)]
            rows += [row for name in methods if (row := _row(name, concurrency, category, here)) is not None]
    found = tuple(rows)
    best = _best(runs, asked.ours, asked.criteria.planned_concurrency)
    plan = ledger.plans.get(str(asked.criteria.planned_concurrency), "") if best == OURS else best
    levels = {name: _pays_up_to(found, name) for name in methods if name != PLAIN}
    pays = {name: level for name, level in levels.items() if level is not None}
    return Speed(rows=found, pays_up_to=pays, best=best, best_plan=plan)


def geometric(over: Values[float], under: Values[float]) -> Interval:
    """The geometric mean of the paired ratios over / under, with its bootstrap-t interval."""
    return geometric_mean([math.log(a / b) for a, b in zip(over, under, strict=True)])


def geometric_mean(logs: Values[float]) -> Interval:
    """Of ratios given by their logarithms, with its bootstrap-t interval."""
    low, high = studentized([*logs]) or (None, None)
    return Interval(
        mean=math.exp(statistics.fmean(logs)),
        low=None if low is None else math.exp(low),
        high=None if high is None else math.exp(high),
        num=len(logs),
    )


def faster(runs: Iterable[Measurement], name: str, than: str) -> Interval | None:
    """How many times faster one method was than another, batch by batch, the medians of the repeats."""
    listed = list(runs)
    own, other = _seconds_per_token(listed, name), _seconds_per_token(listed, than)
    both = sorted(own.keys() & other.keys())
    return geometric([other[unit] for unit in both], [own[unit] for unit in both]) if both else None


def tokens_per_second(runs: Values[Measurement]) -> float:
    return sum(run.tokens for run in runs) / sum(run.seconds for run in runs)


def _rank(run: Measurement) -> tuple[bool, bool]:
    """Single members, plain, the others; otherwise as they came."""
    return not run.method.startswith(SINGLE), run.method != PLAIN


def _row(method: str, concurrency: int, category: str, runs: Values[Measurement]) -> SpeedRow | None:
    own = [run for run in runs if run.method == method]
    if not own:
        return None
    return SpeedRow(
        method=method,
        concurrency=concurrency,
        category=category,
        num_texts=sum(len(run.prompts) for run in own),
        tokens_per_second=tokens_per_second(own),
        ms_per_token=_percentiles(
            [1e3 * seconds * len(run.prompts) / run.tokens for run in own for seconds in run.text_seconds]
        ),
        first_token_ms=_percentiles([1e3 * seconds for run in own for seconds in run.first_token_seconds]),
        over_plain=None if method == PLAIN else faster(runs, method, PLAIN),
    )


def _seconds_per_token(runs: Values[Measurement], method: str) -> dict[int, float]:
    by_batch: dict[int, list[float]] = {}
    for run in runs:
        if run.method == method:
            by_batch.setdefault(run.batch, []).append(run.seconds / run.tokens)
    return {batch: statistics.median(seconds) for batch, seconds in by_batch.items()}


def _percentiles(values: Values[float]) -> Percentiles:
    p50, p95, p99 = np.quantile(values, [0.5, 0.95, 0.99]).tolist()
    return Percentiles(mean=statistics.fmean(values), p50=p50, p95=p95, p99=p99)


def _pays_up_to(rows: Values[SpeedRow], method: str) -> int | None:
    """None where there is no interval at any number of texts: too few batches say neither that it pays nor that not."""
    own = [row for row in rows if row.method == method and row.category == ALL]
    lows = [row.over_plain.low if row.over_plain else None for row in own]
    if all(low is None for low in lows):
        return None
    level = 0
    for row, low in zip(own, lows, strict=True):
        if low is None or low <= 1:
            break
        level = row.concurrency
    return level


def _best(runs: Values[Measurement], ours: str, concurrency: int) -> str:
    """The fastest that decodes the ensemble: ours, unless another beats it by its whole interval."""
    at_once = [run for run in runs if run.concurrency == concurrency]
    best, lead = ours, 1.0
    for name in dict.fromkeys(run.method for run in at_once if not run.method.startswith(SINGLE)):
        over = faster(at_once, name, ours) if name != ours else None
        if over is not None and over.low is not None and over.low > 1 and over.mean > lead:
            best, lead = name, over.mean
    return best

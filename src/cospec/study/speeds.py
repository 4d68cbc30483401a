"""Timed runs -> speeds over plain's on the same prompts, and counts -> the mechanism: how each speed came about."""

import statistics
from collections.abc import Iterable, Sequence

import numpy as np

from ..core.counts import Counts, DraftCounts
from .intervals import geometric
from .ledger import Ledger, at
from .methods import RELAXED
from .pilot_settings import PilotSettings
from .results import (
    ALL,
    OURS,
    PLAIN,
    SINGLE,
    Interval,
    LaneRow,
    Measurement,
    Mechanism,
    MechanismRow,
    Percentiles,
    ProposerRow,
    Speed,
    SpeedRow,
)


def speed(settings: PilotSettings, ledger: Ledger) -> Speed:
    """Every method at every concurrency, on each category and on all."""
    runs = [run for run in ledger.measurements if not run.method.startswith(RELAXED)]
    # Single members come first, then plain, then the others in the order of their first run.
    in_order = sorted(runs, key=lambda run: (not run.method.startswith(SINGLE), run.method != PLAIN))
    methods = list(dict.fromkeys(run.method for run in in_order))
    rows: list[SpeedRow] = []
    for concurrency in sorted({run.concurrency for run in runs}):
        at_once = [run for run in runs if run.concurrency == concurrency]
        categories = list(dict.fromkeys(run.category for run in sorted(at_once, key=lambda run: run.batch)))
        for category in [ALL, *categories] if len(categories) > 1 else [ALL]:
            in_category = [run for run in at_once if category in (ALL, run.category)]
            rows += [
                row for name in methods if (row := _speed_row(name, concurrency, category, in_category)) is not None
            ]
    best = _best(runs, settings.ours, settings.criteria.planned_concurrency)
    levels = {name: _pays_up_to(rows, name) for name in methods if name != PLAIN}
    return Speed(
        rows=tuple(rows),
        pays_up_to={name: level for name, level in levels.items() if level is not None},
        best=best,
        best_plan=ledger.plans.get(str(settings.criteria.planned_concurrency), "") if best == OURS else best,
    )


def faster(runs: Iterable[Measurement], name: str, than: str) -> Interval | None:
    """How many times faster one method is than another, paired by batch; None where they share no batch."""
    listed = list(runs)
    own, other = seconds_per_token(listed, name), seconds_per_token(listed, than)
    shared = sorted(own.keys() & other.keys())
    return geometric([other[batch] for batch in shared], [own[batch] for batch in shared]) if shared else None


def seconds_per_token(runs: Iterable[Measurement], method: str) -> dict[int, float]:
    """Batch -> seconds per token of this method, the median of the repeats."""
    by_batch: dict[int, list[float]] = {}
    for run in runs:
        if run.method == method:
            by_batch.setdefault(run.batch, []).append(run.seconds / run.tokens)
    return {batch: statistics.median(seconds) for batch, seconds in by_batch.items()}


def tokens_per_second(runs: Sequence[Measurement]) -> float:
    """Tokens of all runs over their seconds."""
    return sum(run.tokens for run in runs) / sum(run.seconds for run in runs)


def _speed_row(method: str, concurrency: int, category: str, runs: Sequence[Measurement]) -> SpeedRow | None:
    """A method's row from the runs of one concurrency and category; None where there are none of it."""
    own = [run for run in runs if run.method == method]
    if not own:
        return None
    per_token = [1e3 * seconds * len(run.prompts) / run.tokens for run in own for seconds in run.text_seconds]
    return SpeedRow(
        method=method,
        concurrency=concurrency,
        category=category,
        num_texts=sum(len(run.prompts) for run in own),
        tokens_per_second=tokens_per_second(own),
        ms_per_token=_percentiles(per_token),
        first_token_ms=_percentiles([1e3 * seconds for run in own for seconds in run.first_token_seconds]),
        over_plain=None if method == PLAIN else faster(runs, method, PLAIN),
    )


def _percentiles(values: Sequence[float]) -> Percentiles:
    p50, p95, p99 = np.quantile(values, [0.5, 0.95, 0.99]).tolist()
    return Percentiles(mean=statistics.fmean(values), p50=p50, p95=p95, p99=p99)


def _pays_up_to(rows: Sequence[SpeedRow], method: str) -> int | None:
    """The highest concurrency up to which the interval over plain lies above 1 at every level measured.

    None where no level has an interval: too few batches show neither that a method pays nor that it does not.
    """
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


def _best(runs: Sequence[Measurement], ours: str, concurrency: int) -> str:
    """The fastest method that decodes the ensemble: ours, unless another's whole interval lies above it."""
    at_once = [run for run in runs if run.concurrency == concurrency]
    best, lead = ours, 1.0
    for name in dict.fromkeys(run.method for run in at_once if not run.method.startswith(SINGLE)):
        over = faster(at_once, name, ours) if name != ours else None
        if over is not None and over.low is not None and over.low > 1 and over.mean > lead:
            best, lead = name, over.mean
    return best


def mechanism(ledger: Ledger, speed: Speed, drafters: tuple[str, ...]) -> Mechanism:
    """A row for each method and concurrency that was timed."""
    rows = [
        _mechanism_row(row, ledger.counts[at(row.method, row.concurrency)], ledger, drafters)
        for row in speed.rows
        if row.category == ALL and at(row.method, row.concurrency) in ledger.counts
    ]
    return Mechanism(rows=tuple(rows))


def _mechanism_row(row: SpeedRow, counts: Counts, ledger: Ledger, drafters: tuple[str, ...]) -> MechanismRow:
    lanes = _lanes(counts, drafters)
    member_calls = [lane.calls for name, lane in counts.lanes.items() if name not in drafters]
    seconds = sum(run.seconds for run in ledger.runs(row.method, row.concurrency))
    return MechanismRow(
        method=row.method,
        concurrency=row.concurrency,
        proposers=tuple(_proposer(name, drafts) for name, drafts in counts.proposers.items() if drafts.proposed),
        lanes=lanes,
        block_efficiency=counts.tokens * len(member_calls) / sum(member_calls),
        bottleneck=max(lanes, key=lambda lane: lane.share).name,
        share_outside_models=max(0.0, 1 - counts.seconds_in_models / seconds),
        theory_over_plain=ledger.theory.get(at(row.method, row.concurrency)),
        measured_over_plain=1.0 if row.method == PLAIN else row.over_plain.mean if row.over_plain else None,
        plans=dict(counts.plans),
    )


def _lanes(counts: Counts, drafters: tuple[str, ...]) -> tuple[LaneRow, ...]:
    """A row for each member and drafter that was called."""
    per_100 = 100 / counts.tokens
    return tuple(
        LaneRow(
            name=name,
            is_drafter=name in drafters,
            calls_per_100_tokens=lane.calls * per_100,
            seconds_per_100_tokens=lane.seconds * per_100,
            share=lane.seconds / counts.seconds_in_models if counts.seconds_in_models else 0.0,
        )
        for name, lane in counts.lanes.items()
        if lane.calls
    )


def _proposer(name: str, drafts: DraftCounts) -> ProposerRow:
    by_place = zip(drafts.accepted_at, drafts.proposed_at, strict=True)
    return ProposerRow(
        name=name,
        proposed=drafts.proposed,
        accepted=drafts.accepted,
        acceptance=drafts.accepted / drafts.proposed,
        acceptance_at=tuple(accepted / proposed if proposed else 0.0 for accepted, proposed in by_place),
        proposed_at=tuple(drafts.proposed_at),
    )

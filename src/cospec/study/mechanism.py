"""Counts -> how each method came to its speed: acceptance, calls, who takes the time, theory."""

from collections.abc import Mapping
from typing import Any

from .ledger import Ledger, at
from .results import ALL, PLAIN, LaneRow, Mechanism, MechanismRow, ProposerRow, Speed


def mechanism(ledger: Ledger, speed: Speed, drafters: tuple[str, ...]) -> Mechanism:
    """A row a method and concurrency that was timed."""
    rows = []
    for row in speed.rows:
        counts = ledger.counts.get(at(row.method, row.concurrency))
        if row.category != ALL or not counts:
            continue
        runs = [m for m in ledger.measurements if (m.method, m.concurrency) == (row.method, row.concurrency)]
        lanes = _lanes(counts, drafters)
        in_models = sum(counts["seconds by lane"].values())
        rows.append(
            MechanismRow(
                method=row.method,
                concurrency=row.concurrency,
                proposers=tuple(_proposer(name, counts) for name, num in counts.get("proposed", {}).items() if num),
                lanes=lanes,
                block_efficiency=_tokens_a_round(counts, drafters),
                bottleneck=max(lanes, key=lambda lane: lane.share).name,
                share_outside_models=max(0.0, 1 - in_models / sum(run.seconds for run in runs)),
                theory_over_plain=ledger.theory.get(at(row.method, row.concurrency)),
                measured_over_plain=1.0 if row.method == PLAIN else row.over_plain.mean if row.over_plain else None,
                plans=dict(counts.get("plans", {})),
            )
        )
    return Mechanism(rows=tuple(rows))


def _lanes(counts: Mapping[str, Any], drafters: tuple[str, ...]) -> tuple[LaneRow, ...]:
    seconds, per_100 = counts["seconds by lane"], 100 / counts["tokens"]
    total = sum(seconds.values())
    return tuple(
        LaneRow(
            name=name,
            is_drafter=name in drafters,
            calls_per_100_tokens=calls * per_100,
            seconds_per_100_tokens=seconds[name] * per_100,
            share=seconds[name] / total if total else 0.0,
        )
        for name, calls in counts["calls"].items()
        if calls
    )


def _proposer(name: str, counts: Mapping[str, Any]) -> ProposerRow:
    proposed_at = [num for _, num in _by_place(counts["proposed_at"][name])]
    accepted_at = [num for _, num in _by_place(counts["accepted_at"][name])]
    return ProposerRow(
        name=name,
        proposed=counts["proposed"][name],
        accepted=counts["accepted"][name],
        acceptance=counts["accepted"][name] / counts["proposed"][name],
        acceptance_at=tuple(a / p if p else 0.0 for a, p in zip(accepted_at, proposed_at, strict=True)),
        proposed_at=tuple(proposed_at),
    )


def _by_place(counts: Mapping[str, int]) -> list[tuple[int, int]]:
    return sorted((int(place), num) for place, num in counts.items())


def _tokens_a_round(counts: Mapping[str, Any], drafters: tuple[str, ...]) -> float:
    calls = [num for name, num in counts["calls"].items() if name not in drafters]
    return float(counts["tokens"] * len(calls) / sum(calls))

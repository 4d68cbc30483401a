"""Counts -> how each method came to its speed: acceptances, forward passes, who takes the time, and theory."""

from ..core.counts import Counts, DraftCounts
from .ledger import Ledger, at
from .results import ALL, PLAIN, LaneRow, Mechanism, MechanismRow, ProposerRow, Speed, SpeedRow


def mechanism(ledger: Ledger, speed: Speed, drafters: tuple[str, ...]) -> Mechanism:
    """A row for each method and concurrency that was timed."""
    rows = [
        _row(row, ledger.counts[at(row.method, row.concurrency)], ledger, drafters)
        for row in speed.rows
        if row.category == ALL and at(row.method, row.concurrency) in ledger.counts
    ]
    return Mechanism(rows=tuple(rows))


def _row(row: SpeedRow, counts: Counts, ledger: Ledger, drafters: tuple[str, ...]) -> MechanismRow:
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

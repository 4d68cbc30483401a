"""Counts of what decoding cost: one record, from the engine to results, server, metrics, bench and pilot."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Average:
    """A running mean, exponential once `1 / count` falls under `rate`. count: of the values so far."""

    rate: float
    value: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.count += 1
        self.value += (value - self.value) * max(self.rate, 1 / self.count)

    @property
    def state(self) -> tuple[float, int]:
        """What the mean is so far, to be kept in a file."""
        return self.value, self.count


@dataclass
class LaneCounts:
    """What decoding cost one member or drafter.

    calls: forward passes that it was fed in. tokens_fed: tokens fed in them. seconds: its share of those passes;
    prompt_seconds: of them, the ones that fed a prompt.
    """

    calls: int = 0
    tokens_fed: int = 0
    seconds: float = 0.0
    prompt_seconds: float = 0.0

    def add(self, other: "LaneCounts") -> None:
        self.calls += other.calls
        self.tokens_fed += other.tokens_fed
        self.seconds += other.seconds
        self.prompt_seconds += other.prompt_seconds


@dataclass
class DraftCounts:
    """One proposer's drafts: put to verification, accepted, and dropped, which a rejection before them left unverified.

    proposed_at, accepted_at: the same by place in the block, the number of undecided drafts before one.
    """

    proposed: int = 0
    accepted: int = 0
    dropped: int = 0
    proposed_at: list[int] = field(default_factory=list)
    accepted_at: list[int] = field(default_factory=list)

    @property
    def acceptance(self) -> float | None:
        """accepted / proposed; None where nothing was proposed."""
        return self.accepted / self.proposed if self.proposed else None

    @property
    def blocks(self) -> int:
        """Blocks of drafts that were put to verification."""
        return self.proposed_at[0] if self.proposed_at else 0

    @property
    def drafted(self) -> int:
        """Drafted tokens, verified or not."""
        return self.proposed + self.dropped

    def verify(self, place: int, *, is_accepted: bool) -> None:
        """Count one draft that was put to verification."""
        self._widen(place + 1)
        self.proposed += 1
        self.accepted += is_accepted
        self.proposed_at[place] += 1
        self.accepted_at[place] += is_accepted

    def add(self, other: "DraftCounts") -> None:
        self._widen(len(other.proposed_at))
        self.proposed += other.proposed
        self.accepted += other.accepted
        self.dropped += other.dropped
        for place, (proposed, accepted) in enumerate(zip(other.proposed_at, other.accepted_at, strict=True)):
            self.proposed_at[place] += proposed
            self.accepted_at[place] += accepted

    def _widen(self, num_places: int) -> None:
        for by_place in (self.proposed_at, self.accepted_at):
            by_place.extend([0] * (num_places - len(by_place)))


@dataclass
class Counts:
    """What one sequence cost, or several together.

    tokens: of output. seconds: from joining the engine to the end. lanes, proposers: by name of a member or drafter.
    verified: all drafts that were put to r. plans: name of a plan that `auto` chose -> sequences that ended under it.
    """

    tokens: int = 0
    seconds: float = 0.0
    lanes: dict[str, LaneCounts] = field(default_factory=dict)
    proposers: dict[str, DraftCounts] = field(default_factory=dict)
    verified: DraftCounts = field(default_factory=DraftCounts)
    plans: dict[str, int] = field(default_factory=dict)

    @classmethod
    def total(cls, several: Iterable["Counts"]) -> "Counts":
        """Their sum."""
        total = cls()
        for each in several:
            total.add(each)
        return total

    @property
    def seconds_in_models(self) -> float:
        """Seconds of all forward passes."""
        return sum(lane.seconds for lane in self.lanes.values())

    @property
    def prompt_seconds(self) -> float:
        """Seconds of those that fed a prompt."""
        return sum(lane.prompt_seconds for lane in self.lanes.values())

    def add(self, other: "Counts") -> None:
        self.tokens += other.tokens
        self.seconds += other.seconds
        for name, lane in other.lanes.items():
            self.lanes.setdefault(name, LaneCounts()).add(lane)
        for name, drafts in other.proposers.items():
            self.proposers.setdefault(name, DraftCounts()).add(drafts)
        self.verified.add(other.verified)
        for plan, count in other.plans.items():
            self.plans[plan] = self.plans.get(plan, 0) + count

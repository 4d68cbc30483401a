"""Schedules: who is fed next, who proposes, and which cells settle a position.

A schedule is a policy over one sequence's sheet. It changes nothing and knows no runner; the engine asks and acts.
"""

from collections.abc import Callable
from collections.abc import Sequence as Values
from dataclasses import dataclass
from typing import Protocol

from .combine import Combination, Mixture
from .errors import InvalidSchedule, UnknownName
from .sampling import Purpose, SamplingParams
from .sequence import Sequence
from .verify import check_verification

# What a proposer drafts at a time under `fixed` unless told otherwise.
DEFAULT_FIXED_GAMMA = 4


class Schedule(Protocol):
    """The policy. Lanes are given by index: the members', then the drafters'."""

    name: str

    def turn(self, sequence: Sequence) -> Values[int]:
        """Lanes to be fed all they have not seen, in this round."""
        ...

    def proposer(self, sequence: Sequence) -> int | None:
        """The lane whose bonus row proposes the token at the frontier, if one may."""
        ...

    def cells(self, sequence: Sequence, position: int) -> Values[int]:
        """The members whose rows settle this position."""
        ...


class Plain:
    """No drafts: feed every member the last token, settle, repeat. The baseline for every claim."""

    name = "plain"

    def turn(self, sequence: Sequence) -> Values[int]:
        return [i for i in sequence.members if not sequence.lanes[i].has(sequence.frontier)]

    def proposer(self, sequence: Sequence) -> int | None:
        return None

    def cells(self, sequence: Sequence, position: int) -> Values[int]:
        return sequence.members


@dataclass(frozen=True)
class Fixed:
    """One proposer, a member or not, drafts `gamma` tokens; then the members that lack their rows are fed the block."""

    lane: int
    gamma: int
    name = "fixed"

    def turn(self, sequence: Sequence) -> Values[int]:
        if self._num_to_draft(sequence) > 0:
            return [self.lane]
        # A member that proposed has its rows but for the bonus, and gets that with its next draft.
        needed = sequence.frontier - 1 if sequence.drafts else sequence.frontier
        return [i for i in sequence.members if sequence.lanes[i].seen < needed]

    def proposer(self, sequence: Sequence) -> int | None:
        return (
            self.lane if self._num_to_draft(sequence) > 0 and sequence.lanes[self.lane].has(sequence.frontier) else None
        )

    def cells(self, sequence: Sequence, position: int) -> Values[int]:
        return sequence.members

    def _num_to_draft(self, sequence: Sequence) -> int:
        # The last token of a block comes from r for free, so the last one allowed is never drafted.
        return min(self.gamma - len(sequence.drafts), sequence.num_draftable - 1)


@dataclass(frozen=True)
class Alternate:
    """CoS (Fu et al. 2025, algorithms 1 and 2) for any number of members, `gammas[i]` tokens a turn of member i.

    The member with the fewest rows is fed all it has not seen, which scores the others' drafts; its bonus row is
    its own proposal. `first` starts afresh after a replacement.
    """

    gammas: tuple[int, ...]
    first: int = 0
    name = "alternate"

    def turn(self, sequence: Sequence) -> Values[int]:
        if sequence.drafts and sequence.num_draftable > 0:
            last = sequence.drafts[-1].proposer
            if self._run_length(sequence, last) < self.gammas[last]:
                return [last]
        return [min(sequence.members, key=lambda i: (sequence.lanes[i].seen, i != self.first, i))]

    def proposer(self, sequence: Sequence) -> int | None:
        if sequence.num_draftable <= 0:
            return None
        return next((i for i in sequence.members if sequence.lanes[i].has(sequence.frontier)), None)

    def cells(self, sequence: Sequence, position: int) -> Values[int]:
        return sequence.members

    def _run_length(self, sequence: Sequence, proposer: int) -> int:
        """How many of the last drafts are this proposer's, one after the other."""
        length = 0
        for draft in reversed(sequence.drafts):
            if draft.proposer != proposer:
                break
            length += 1
        return length


@dataclass(frozen=True)
class DrawnMember:
    """ME (Fu et al. 2026): a token of a mixture is a token of one member, drawn with the weights' probabilities.

    The draw for a position is fixed by the sequence's seed, made once, and never redrawn; the other members catch
    up in one call when their turn comes.
    """

    weights: tuple[float, ...]
    name = "mixture"

    def turn(self, sequence: Sequence) -> Values[int]:
        return self.cells(sequence, sequence.position)

    def proposer(self, sequence: Sequence) -> int | None:
        return None

    def cells(self, sequence: Sequence, position: int) -> Values[int]:
        uniform = sequence.draws.uniform(position, Purpose.MEMBER)
        reached = 0.0
        for member, weight in enumerate(self.weights):
            reached += weight
            if uniform < reached:
                return (member,)
        return (len(self.weights) - 1,)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which schedule, as a user writes it.

    gamma: tokens a turn, one number or one a member; None for the schedule's default (4 for `fixed`, 1 for
    `alternate`). proposer: a member's or drafter's name; None for the first drafter or member.
    verification: token, block or coupled.

    Raises UnknownName or InvalidSchedule.
    """

    schedule: str = "auto"
    gamma: int | tuple[int, ...] | None = None
    proposer: str | None = None
    verification: str = "token"

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise UnknownName("schedule", self.schedule, SCHEDULES)
        check_verification(self.verification)
        if isinstance(self.gamma, list):
            object.__setattr__(self, "gamma", tuple(self.gamma))
        for gamma in self.gammas:
            if not isinstance(gamma, int) or isinstance(gamma, bool) or gamma < 1:
                raise InvalidSchedule(
                    f"gamma must be a whole number >= 1, got {gamma!r}; it is how many tokens a proposer drafts a turn"
                )
        if self.gamma is not None and self.schedule in ("plain", "mixture"):
            raise InvalidSchedule(
                f"{self.schedule} drafts nothing, so gamma {self.gamma} has no meaning; use fixed or alternate"
            )

    @property
    def gammas(self) -> tuple[int, ...]:
        """gamma as written, as a tuple; empty if none was."""
        if self.gamma is None:
            return ()
        return self.gamma if isinstance(self.gamma, tuple) else (self.gamma,)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a plan is made into a schedule for."""

    combination: Combination
    members: tuple[str, ...]
    drafters: tuple[str, ...]
    params: SamplingParams

    @property
    def lanes(self) -> tuple[str, ...]:
        return self.members + self.drafters


def _plain(plan: Plan, setting: Setting) -> Schedule:
    return Plain()


def _fixed(plan: Plan, setting: Setting) -> Schedule:
    if len(plan.gammas) > 1:
        raise InvalidSchedule(f"fixed has one proposer and takes one gamma, got {list(plan.gammas)}")
    default = setting.drafters[0] if setting.drafters else setting.members[0]
    return Fixed(_lane(plan.proposer or default, setting.lanes), plan.gammas[0] if plan.gammas else DEFAULT_FIXED_GAMMA)


def _alternate(plan: Plan, setting: Setting) -> Schedule:
    num_members = len(setting.members)
    gammas = plan.gammas or (1,)
    if len(gammas) == 1:
        gammas *= num_members
    if len(gammas) != num_members:
        raise InvalidSchedule(
            f"alternate takes one gamma, or one a member; got {list(gammas)} for {num_members} members"
        )
    first = plan.proposer or setting.members[0]
    if first in setting.drafters:
        raise InvalidSchedule(f"alternate's proposers are the members, and {first!r} is none; use fixed with it")
    return Alternate(gammas, _lane(first, setting.members))


def _mixture(plan: Plan, setting: Setting) -> Schedule:
    reason = _why_not_mixture(plan, setting)
    if reason:
        raise InvalidSchedule(f"the mixture schedule {reason}; use alternate or auto")
    assert isinstance(setting.combination, Mixture)
    return DrawnMember(setting.combination.weights)


def _auto(plan: Plan, setting: Setting) -> Schedule:
    """One call a token where a mixture is sampled; else a drafter, if there is one; else the members in turn."""
    if plan.proposer in setting.drafters:
        return _fixed(plan, setting)
    if len(setting.members) == 1:
        return _plain(plan, setting)
    if plan.gamma is None and plan.proposer is None and not _why_not_mixture(plan, setting):
        return _mixture(plan, setting)
    return _alternate(plan, setting)


SCHEDULES: dict[str, Callable[[Plan, Setting], Schedule]] = {
    "alternate": _alternate,
    "auto": _auto,
    "fixed": _fixed,
    "mixture": _mixture,
    "plain": _plain,
}


def make_schedule(plan: Plan, setting: Setting) -> Schedule:
    """The plan's schedule for these members and this sampling. Raises InvalidSchedule or UnknownName."""
    return SCHEDULES[plan.schedule](plan, setting)


def _why_not_mixture(plan: Plan, setting: Setting) -> str | None:
    """Why r's tokens cannot be drawn member by member, or None if they can."""
    if not isinstance(setting.combination, Mixture):
        return f"draws each token from one member of a weighted mixture, and the target is {setting.combination.name}"
    if plan.verification == "coupled":
        return "never sees r, so coupled verification cannot be had with it"
    if not setting.params.is_identity:
        return "needs r untouched: temperature 1, no top-k, top-p, min-p, penalties, logit bias or min_tokens"
    return None


def _lane(name: str, lanes: tuple[str, ...]) -> int:
    if name not in lanes:
        raise UnknownName("proposer", name, lanes)
    return lanes.index(name)

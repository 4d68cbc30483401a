"""From what a user writes to a schedule: names, their options, and what cannot be had together."""

from collections.abc import Callable
from collections.abc import Sequence as Values
from dataclasses import dataclass, replace
from typing import TypedDict

from ..core.certain import has_shortcut
from ..core.combine import Combination, Mixture
from ..core.sampling import SamplingParams
from ..core.verify import check_verification
from ..errors import InvalidSchedule, UnknownName
from .pace import MOST_DRAFTED, Pace
from .policies import Alternate, Assigned, Cascade, DrawnMember, Fixed, Plain, Schedule

# What a proposer drafts at a time unless told otherwise.
DEFAULT_GAMMA = 4
# The gamma of a proposer that goes as far as is likely to pay.
PACED = "auto"
# The proposer of a plan in which each member has a drafter of its own.
EACH = "each"
# How many tokens the first stage of `cascade` collects for the second unless told otherwise.
DEFAULT_DEPTH = 6


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which schedule, as a user writes it.

    gamma: tokens a turn, one number or one a member; None for the schedule's default (4 for a proposer, 1 for
    `alternate`), "auto" for as many as are likely to pay, in `fixed` and `mixture`. `cascade` takes two: the drafter's
    tokens a turn, and how many tokens of its member are verified at a time. proposer: a member's or drafter's name;
    None for the first drafter or member, "each" for a drafter for each member in `mixture`, the first for the first and
    so on; where it may measure, `auto` weighs all of them, and who is best for whom. first: the member that
    starts afresh in `alternate` and that the drafter drafts for in `cascade`; None for the first, or the proposer.
    verification: block, token or coupled.

    Raises UnknownName or InvalidSchedule.
    """

    schedule: str = "auto"
    gamma: int | tuple[int, ...] | str | None = None
    proposer: str | None = None
    first: str | None = None
    verification: str = "block"

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise UnknownName("schedule", self.schedule, SCHEDULES)
        check_verification(self.verification)
        if isinstance(self.gamma, list):
            object.__setattr__(self, "gamma", tuple(self.gamma))
        if isinstance(self.gamma, str) and self.gamma != PACED:
            raise InvalidSchedule(f'gamma must be a whole number >= 1 or "{PACED}", got {self.gamma!r}')
        if self.is_paced and self.schedule not in ("fixed", "mixture"):
            raise InvalidSchedule(f'gamma "{PACED}" is for fixed and mixture, and the schedule is {self.schedule}')
        for gamma in self.gammas:
            if not isinstance(gamma, int) or isinstance(gamma, bool) or gamma < 1:
                raise InvalidSchedule(
                    f"gamma must be a whole number >= 1, got {gamma!r}; it is how many tokens a proposer drafts a turn"
                )
        if self.gamma is not None and self.schedule == "plain":
            raise InvalidSchedule(f"plain drafts nothing, so gamma {self.gamma} has no meaning; use fixed or alternate")

    def __str__(self) -> str:
        """In one line, such as `fixed 4 by drafter`."""
        gammas = PACED if self.is_paced else "/".join(map(str, self.gammas))
        parts = [self.schedule, gammas, f"by {self.proposer}" if self.proposer else ""]
        return " ".join(filter(None, [*parts, f"for {self.first}" if self.first else ""]))

    @property
    def is_paced(self) -> bool:
        """Whether the proposer goes as far as is likely to pay."""
        return self.gamma == PACED

    @property
    def gammas(self) -> tuple[int, ...]:
        """gamma as written, as a tuple; empty if no number was."""
        if self.gamma is None or isinstance(self.gamma, str):
            return ()
        return self.gamma if isinstance(self.gamma, tuple) else (self.gamma,)


def as_gamma(parts: Values[str]) -> int | tuple[int, ...] | str | None:
    """`auto`, or counts, as a user writes them, as a plan takes them. Raises InvalidSchedule."""
    if [*parts] == [PACED]:
        return PACED
    if not all(part.strip().isdecimal() for part in parts):
        raise InvalidSchedule(f"gamma must be a whole number >= 1, one for each member, or {PACED}, got {[*parts]}")
    numbers = tuple(map(int, parts))
    return numbers[0] if len(numbers) == 1 else numbers or None


class Block(TypedDict):
    """The length of a proposer's blocks, at most, and what stops it earlier."""

    gamma: int
    pace: Pace | None


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
    lane = setting.lanes.index(plan.proposer or default)
    return Fixed(lane, **_block(plan), one_by_one=_may_settle_early(setting))


def _alternate(plan: Plan, setting: Setting) -> Schedule:
    num_members = len(setting.members)
    gammas = plan.gammas or (1,)
    if len(gammas) == 1:
        gammas *= num_members
    if len(gammas) != num_members:
        raise InvalidSchedule(
            f"alternate takes one gamma, or one a member; got {list(gammas)} for {num_members} members"
        )
    if plan.proposer in setting.drafters:
        raise InvalidSchedule(
            f"alternate's proposers are the members, and {plan.proposer!r} is none; use fixed with it"
        )
    first = setting.members.index(plan.first or plan.proposer or setting.members[0])
    return Alternate(gammas, first, is_lazy=_may_settle_early(setting))


def _cascade(plan: Plan, setting: Setting) -> Schedule:
    if len(setting.members) < 2:
        raise InvalidSchedule("cascade verifies for one member, then for all, and there is only one; use fixed")
    if len(plan.gammas) not in (0, 2):
        raise InvalidSchedule(
            f"cascade takes two gammas, the drafter's tokens a turn and the member's tokens before all verify them, "
            f"got {list(plan.gammas)}"
        )
    gamma, depth = plan.gammas or (DEFAULT_GAMMA, DEFAULT_DEPTH)
    first = setting.members.index(plan.first or setting.members[0])
    return Cascade(_drafter("cascade", plan, setting), gamma, first, depth)


def _mixture(plan: Plan, setting: Setting) -> Schedule:
    reason = _why_not_mixture(plan, setting)
    if reason:
        raise InvalidSchedule(f"the mixture schedule {reason}; use alternate or auto")
    assert isinstance(setting.combination, Mixture)
    if plan.gamma is None and plan.proposer is None:
        return DrawnMember(setting.combination.weights)
    if len(plan.gammas) > 1:
        raise InvalidSchedule(f"mixture drafts for all members alike and takes one gamma, got {list(plan.gammas)}")
    return DrawnMember(setting.combination.weights, _assigned(plan, setting), **_block(plan))


def _block(plan: Plan) -> Block:
    """How long a proposer's blocks are."""
    if plan.is_paced:
        return {"gamma": MOST_DRAFTED, "pace": Pace()}
    return {"gamma": plan.gammas[0] if plan.gammas else DEFAULT_GAMMA, "pace": None}


def _auto(plan: Plan, setting: Setting) -> Schedule:
    """What `auto` does where it may not measure: a drafter's drafts, else a mixture drawn by member, else in turn."""
    if plan.proposer in setting.drafters or (setting.drafters and plan.proposer is None):
        drafted = plan if plan.gamma is not None else replace(plan, schedule="fixed", gamma=PACED)
        is_mixed = len(setting.members) > 1 and not _why_not_mixture(plan, setting)
        return _mixture(drafted, setting) if is_mixed else _fixed(drafted, setting)
    if len(setting.members) == 1:
        if plan.gamma is not None:
            raise InvalidSchedule(f"one member alone drafts nothing, so gamma {plan.gamma} needs a proposer beside it")
        return _plain(plan, setting)
    if plan.gamma is None and plan.proposer is None and not _why_not_mixture(plan, setting):
        return _mixture(plan, setting)
    return _alternate(plan, setting)


# What `auto` weighs of `cascade`: tokens a turn of the drafter, and how deep the first stage goes.
_STAGES = ((3, 4), (6, 8))


def plans(setting: Setting, verification: str) -> list[Plan]:
    """All plans that `auto` weighs for these members and this sampling, `plain` first."""
    members, drafters = setting.members, setting.drafters
    found = [Plan(schedule="plain")]
    if len(members) > 1:
        found += [Plan(schedule="mixture"), *(Plan(schedule="alternate", first=name) for name in members)]
    if len(members) > 1 and drafters:
        # Of several each member has the best for it, which one for all cannot be better than.
        found += [Plan(schedule="mixture", gamma=PACED, proposer=EACH if len(drafters) > 1 else drafters[0])]
    for name in drafters:
        found += [Plan(schedule="fixed", gamma=PACED, proposer=name)]
        found += [
            Plan(schedule="cascade", gamma=gammas, proposer=name, first=first)
            for first in members
            for gammas in _STAGES
        ]
    if len(members) > 1:
        found += [Plan(schedule="fixed", gamma=PACED, proposer=name) for name in members]
    whole = [replace(plan, verification=verification) for plan in found]
    return [plan for plan in whole if _is_legal(plan, setting)]


def _is_legal(plan: Plan, setting: Setting) -> bool:
    try:
        make_schedule(plan, setting)
    except InvalidSchedule:
        return False
    return True


SCHEDULES: dict[str, Callable[[Plan, Setting], Schedule]] = {
    "alternate": _alternate,
    "auto": _auto,
    "cascade": _cascade,
    "fixed": _fixed,
    "mixture": _mixture,
    "plain": _plain,
}


def make_schedule(plan: Plan, setting: Setting) -> Schedule:
    """The plan's schedule for these members and this sampling. Raises InvalidSchedule or UnknownName."""
    for setting_name, name, known in (
        ("first", plan.first, setting.members),
        ("proposer", plan.proposer, setting.lanes),
    ):
        if name is not None and name not in known and not (plan.schedule == "mixture" and name == EACH):
            raise UnknownName(setting_name, name, known)
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


def _may_settle_early(setting: Setting) -> bool:
    """Whether fewer than all members' rows may settle a position."""
    return has_shortcut(setting.combination, is_greedy=setting.params.is_argmax)


def _assigned(plan: Plan, setting: Setting) -> Assigned:
    """The drafter of each member: the one that the plan names, or each its own, the last for the rest."""
    if plan.proposer != EACH or EACH in setting.lanes:
        return Assigned([_drafter("mixture", plan, setting)] * len(setting.members))
    if not setting.drafters:
        raise InvalidSchedule("proposer each is a drafter for each member, and there is none; give models as proposers")
    lanes = range(len(setting.members), len(setting.lanes))
    return Assigned([lanes[min(i, len(lanes) - 1)] for i in range(len(setting.members))], among=lanes)


def _drafter(schedule: str, plan: Plan, setting: Setting) -> int:
    """The lane of the drafter, which must be no member."""
    if plan.proposer in setting.members or not setting.drafters:
        raise InvalidSchedule(
            f"{schedule} drafts with a model that is no member; name one as proposer, such as another of their "
            "tokenizer, or lookup"
        )
    return setting.lanes.index(plan.proposer or setting.drafters[0])

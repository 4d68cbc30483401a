"""Plans: which schedule, and how it is set, as a user writes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..core.certain import has_shortcut
from ..core.combine import Combination
from ..core.params import SamplingParams
from ..core.policy import Policy
from ..core.verify import check_verification
from ..errors import InvalidSchedule, UnknownName, shown
from ..inputs import whole_number
from ..names import DEFAULT_SCHEDULE, DEFAULT_VERIFICATION
from .registry import schedule_names

if TYPE_CHECKING:
    from .base import Schedule

# What a proposer drafts a turn by default.
DEFAULT_GAMMA = 4
# The gamma of a proposer that goes on as long as a draft more is likely to pay.
PACED = "auto"
# The proposer of a plan in which each member has a drafter of its own.
EACH = "each"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which schedule, and how it is set.

    schedule: a name, a schedule object, which is taken as it is, or a class of them, which is made for the ensemble.
    gamma: tokens a turn, one number or one a member; None for the schedule's default (4 for a proposer, 1 for
    `alternate`), "auto" for as many as are likely to pay, in `fixed` and `mixture`. `cascade` takes two: the drafter's
    tokens a turn, and how many tokens of its member are verified at a time. proposer: a member's or drafter's name;
    None for the first drafter or member, "each" for a drafter for each member in `mixture`, the first for the first and
    so on; where it may measure, `auto` weighs all of them, and who is best for whom. first: the member that
    starts afresh in `alternate` and that the drafter drafts for in `cascade`; None for the first, or the proposer.
    verification: block, token or coupled.

    Raises UnknownName or InvalidSchedule.
    """

    schedule: "str | Schedule | type[Schedule]" = DEFAULT_SCHEDULE
    gamma: int | Sequence[int] | str | None = None
    proposer: str | None = None
    first: str | None = None
    verification: str = DEFAULT_VERIFICATION

    def __post_init__(self) -> None:
        check_schedule_given(self.schedule)
        check_verification(self.verification)
        if isinstance(self.gamma, list):
            object.__setattr__(self, "gamma", tuple(self.gamma))
        if isinstance(self.gamma, str) and self.gamma != PACED:
            raise InvalidSchedule(f'gamma must be a whole number >= 1 or "{PACED}", got {shown(self.gamma)}')
        is_empty = isinstance(self.gamma, tuple) and not self.gamma
        for gamma in ((),) if is_empty else self.gammas:
            if not isinstance(gamma, int) or isinstance(gamma, bool) or gamma < 1:
                raise InvalidSchedule(
                    f"gamma must be a whole number >= 1, got {shown(gamma)}; it is how many tokens a proposer drafts a "
                    "turn"
                )
        for what, name in (("proposer", self.proposer), ("first", self.first)):
            if not (name is None or isinstance(name, str)):
                raise InvalidSchedule(f"{what} must be the name of a member or drafter, or none, got {shown(name)}")

    def __str__(self) -> str:
        """In one line, such as `fixed 4 by drafter`."""
        gammas = PACED if self.is_paced else "/".join(map(str, self.gammas))
        parts = [self.name, gammas, f"by {self.proposer}" if self.proposer else ""]
        return " ".join(filter(None, [*parts, f"for {self.first}" if self.first else ""]))

    @property
    def name(self) -> str:
        """The schedule's name."""
        return self.schedule if isinstance(self.schedule, str) else self.schedule.name

    @property
    def is_paced(self) -> bool:
        """Whether the proposer goes on as long as a draft more is likely to pay."""
        return self.gamma == PACED

    @property
    def gammas(self) -> tuple[int, ...]:
        """gamma as written, as a tuple; empty if no number was."""
        if self.gamma is None or isinstance(self.gamma, str):
            return ()
        return self.gamma if isinstance(self.gamma, tuple) else (self.gamma,)


def check_schedule_given(schedule: object) -> None:
    """Raises UnknownName for an unknown name, InvalidSchedule for what is neither a name nor a schedule."""
    if isinstance(schedule, str):
        if schedule not in schedule_names():
            raise UnknownName("schedule", schedule, schedule_names())
    elif not isinstance(schedule, Policy) and not (isinstance(schedule, type) and issubclass(schedule, Policy)):
        raise InvalidSchedule(f"schedule is {shown(schedule)}; give a name, a cospec.Schedule, or a class of them")


def as_gamma(parts: Sequence[str]) -> int | tuple[int, ...] | str | None:
    """`auto`, or counts, as a command line gives them, as a plan takes them. Raises InvalidSchedule."""
    if [*parts] == [PACED]:
        return PACED
    numbers = tuple(number for part in parts if (number := whole_number(part)) is not None)
    if len(numbers) != len(parts):
        raise InvalidSchedule(
            f"gamma must be a whole number >= 1, one for each member, or {PACED}, got {shown([*parts])}"
        )
    return numbers[0] if len(numbers) == 1 else numbers or None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a plan is made into a schedule for: the target, and who takes part.

    servers: for each lane the first one that the same runner serves, with which it is fed in one forward pass; empty
    where each lane has a runner of its own, or none is loaded yet. runs: lanes that propose several tokens at once.
    acceptances: of drafters' lanes, as far as their folders tell it.
    """

    combination: Combination
    members: tuple[str, ...]
    drafters: tuple[str, ...]
    params: SamplingParams
    servers: tuple[int, ...] = ()
    runs: tuple[int, ...] = ()
    acceptances: Mapping[int, float] = field(default_factory=dict)

    @property
    def lanes(self) -> tuple[str, ...]:
        """Members, then drafters."""
        return self.members + self.drafters

    @property
    def may_settle_early(self) -> bool:
        """Whether fewer than all members' rows may settle a position."""
        return has_shortcut(self.combination, is_greedy=self.params.is_argmax)

    def drafter_of(self, plan: Plan) -> int:
        """The lane of the plan's drafter, which must be no member, the first by default. Raises InvalidSchedule."""
        if plan.proposer in self.members or not self.drafters:
            raise InvalidSchedule(
                f"{plan.name} drafts with a model that is no member; name one as proposer, such as another of their "
                "tokenizer, or lookup"
            )
        return self.lanes.index(plan.proposer or self.drafters[0])

"""The base class of schedules: a policy, how it is made from a plan, what `auto` weighs of it, and its theory."""

from collections.abc import Sequence
from typing import Self

from ..core.policy import Policy
from ..core.sheet import Sheet
from ..errors import InvalidSchedule
from .plan import Plan, Setting
from .registry import schedule_names
from .theory import Cycle, Estimates, Measurements, seconds_of_all


class Schedule(Policy):
    """Who is fed next, who may propose, and which cells settle a position.

    It decides the speed alone: with the default `cells` and `refiner` the text follows r whatever else it answers.

    A schedule of one's own overrides `turn` and `proposer`, and has a `name`. Everything else has a default: drafts of
    none, settled by all members, no options in a plan, one plan for `auto` to weigh, and the theory of `plain`.
    """

    can_be_paced = False
    """Whether a plan may have gamma "auto"."""
    special_proposers: tuple[str, ...] = ()
    """What a plan may name as proposer beside a member or drafter."""

    @classmethod
    def plan(cls) -> Plan:
        """The schedule by its defaults: by name where that is registered, so that files can hold it."""
        return Plan(schedule=cls.name if cls.name in schedule_names() else cls)

    @classmethod
    def make(cls, plan: Plan, setting: Setting) -> "Schedule":
        """The schedule of this plan, for these members and this sampling.

        By default an instance without arguments. The ensemble's proposer is set aside: a schedule finds drafters in
        `sheet.drafters`. Raises InvalidSchedule for what the plan asks and the schedule cannot do.
        """
        for what, value in (("gamma", plan.gamma), ("first", plan.first)):
            if value is not None:
                raise InvalidSchedule(f"{plan.name} takes no {what}, and {value!r} was given; leave it out")
        return cls()

    @classmethod
    def resolved(cls, plan: Plan, setting: Setting) -> Plan:
        """The plan that runs where this one is asked for: itself, unless the schedule chooses another's."""
        return plan

    @classmethod
    def candidates(cls, setting: Setting) -> Sequence[Plan]:
        """The plans of this schedule that `auto` weighs. One that cannot be made for the setting is left out."""
        return [cls.plan()]

    @classmethod
    def benchmarked(cls, setting: Setting) -> Plan | None:
        """The plan that `cospec bench` and the pilot run of this schedule, if any."""
        return cls.plan()

    @classmethod
    def verified(cls, setting: Setting) -> Sequence[Plan]:
        """The plans that `cospec verify` compares with `plain`."""
        return [cls.plan()]

    @classmethod
    def owners(cls, plan: Plan, setting: Setting) -> Sequence[int]:
        """For each drafter the member that it drafts for, whose prompt it is given unless it has its own. The first
        member by default."""
        return [0] * len(setting.drafters)

    @property
    def drafter_of_each(self) -> Sequence[int]:
        """For each member the lane that drafts for it, where there was a choice; empty otherwise."""
        return ()

    def may_be_left(self, sheet: Sheet) -> bool:
        """Whether another schedule may go on where nothing is drafted, as `auto` does. False while a random draw for an
        unsettled position has already been used: then this schedule must settle that position."""
        return True

    def winding_down(self) -> Self:
        """The same schedule for a sequence that is to leave it: it begins no further draft, and verifies those that
        stand. By default it goes on to the end of what it is about."""
        return self

    def cycle(self, estimates: Estimates) -> Cycle:
        """The tokens and seconds of one cycle, which `auto` predicts its speed from. By default those of `plain`: each
        member is fed one token, which decides a position. The clock corrects what `auto` tries; what theory says is
        slow, it seldom tries."""
        return Cycle(1.0, seconds_of_all(estimates, 1) + estimates.engine_seconds(1))

    def tuned(self, measured: Measurements, *, speed: float, best: float) -> Self:
        """The same schedule, its free settings (thresholds, who drafts for whom) set by what was measured. Asked once a
        measurement window.

        speed, best: predicted tokens a second of this plan, and of the one held to be the fastest; 0 where unknown.
        """
        return self

    def expected_acceptance(self, estimates: Estimates) -> float | None:
        """That of its drafts, where it reads their confidence; what these say begins at that level."""
        return None

    def with_acceptances(self, by_confidence: Sequence[float]) -> Self:
        """The same schedule, with the acceptance of its drafts by their proposer's confidence, as `drafting.StopRule`
        takes it. Asked as drafts are verified, the less often the more were."""
        return self

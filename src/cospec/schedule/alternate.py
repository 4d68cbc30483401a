"""`alternate`: members take turns as proposer and verifier (CoS, Fu et al. 2025, algorithms 1 and 2, for n members)."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.sheet import Sheet
from ..errors import InvalidSchedule
from .base import Schedule
from .plan import Plan, Setting
from .theory import Cycle, Estimates, served_together


@dataclass(frozen=True)
class Alternate(Schedule):
    """Member i drafts `gammas[i]` tokens a turn.

    The member with the fewest rows is fed all it has not seen, which scores the others' drafts; its bonus row is
    its own proposal. `first` takes the first turn after a rollback; is_lazy: also whenever nothing is drafted, because
    its row alone may settle the position.
    """

    gammas: tuple[int, ...]
    first: int = 0
    is_lazy: bool = False
    name = "alternate"

    @property
    def reads_confidence(self) -> bool:
        return False

    def turn(self, sheet: Sheet) -> Sequence[int]:
        if sheet.drafts and sheet.num_draftable > 0:
            last = sheet.drafts[-1].proposer
            own = itertools.takewhile(lambda draft: draft.proposer == last, reversed(sheet.drafts))
            if sum(1 for _ in own) < self.gammas[last]:
                return [last]
        if self.is_lazy and not sheet.drafts and not sheet.lanes[self.first].has(sheet.frontier):
            return [self.first]
        return [min(sheet.members, key=lambda i: (sheet.lanes[i].seen, i != self.first, i))]

    def proposer(self, sheet: Sheet) -> int | None:
        return next((i for i in sheet.members if sheet.lanes[i].has(sheet.frontier)), None)

    @classmethod
    def make(cls, plan: Plan, setting: Setting) -> "Alternate":
        """One gamma for all members (1 by default), or one each."""
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
        return cls(gammas, first, is_lazy=setting.may_settle_early)

    @classmethod
    def candidates(cls, setting: Setting) -> Sequence[Plan]:
        members = setting.members if len(setting.members) > 1 else ()
        return [Plan(schedule="alternate", first=name) for name in members]

    @classmethod
    def benchmarked(cls, setting: Setting) -> Plan | None:
        return Plan(schedule="alternate", gamma=1)

    def cycle(self, estimates: Estimates) -> Cycle:
        """A pass decides a draft and settles a token; a rejection costs as many passes, which decide nothing, as stand
        between a draft and its verdict. Members of one runner take a pass each all the same: they have nothing of
        sharing it."""
        turn = sum(self.gammas)
        shares = [gamma / turn for gamma in self.gammas]
        alpha = sum(share * estimates.acceptance(i, None) for i, share in enumerate(shares))
        seconds = 0.0
        for lanes in served_together(estimates, range(len(shares))):
            share = sum(shares[i] for i in lanes)
            seconds += share * estimates.seconds(lanes[0], len(lanes) / share, share)
        num_undecided = (1 - alpha) * (turn - 1)
        engine = estimates.engine_seconds(2) + num_undecided * estimates.engine_seconds(0)
        return Cycle(1.0, seconds * (1 + num_undecided) + engine)

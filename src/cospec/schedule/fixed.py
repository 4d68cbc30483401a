"""`fixed`: one proposer drafts a block, then every member scores it.

Speculative decoding with the combined target (Naive-CoS in Fu et al. 2025; speculative contrastive decoding, Yuan et
al. 2024).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.sheet import Sheet
from ..errors import InvalidSchedule
from .blocks import BlockDrafting, block_length, is_being_verified
from .plan import PACED, Plan, Setting
from .theory import Cycle, Estimates, seconds_of_all


@dataclass(frozen=True, kw_only=True)
class Fixed(BlockDrafting):
    """The lane `lane`, a member or not, drafts; then the members that lack rows are fed the block.

    is_run: whether the lane has several tokens at once, so that a block is drafted in one round.
    one_by_one: a member a round, where the first one's row may settle a position alone. servers: see Setting; members
    of one runner are fed together all the same, since the pass of one costs what the pass of all does.
    """

    lane: int
    is_run: bool = False
    one_by_one: bool = False
    servers: tuple[int, ...] = ()
    name = "fixed"

    def turn(self, sheet: Sheet) -> Sequence[int]:
        if self._drafts_more(sheet):
            return [self.lane]
        # A member that proposed has its rows but for the bonus, and gets that with its next draft.
        needed = sheet.frontier - 1 if sheet.drafts else sheet.frontier
        lacking = [i for i in sheet.members if sheet.lanes[i].seen < needed]
        return self._first_of(lacking) if self.one_by_one else lacking

    def proposer(self, sheet: Sheet) -> int | None:
        return self.lane if self._drafts_more(sheet) and sheet.lanes[self.lane].has(sheet.frontier) else None

    def _first_of(self, lanes: Sequence[int]) -> Sequence[int]:
        """The first lane, and those that its runner serves with it."""
        if not self.servers:
            return lanes[:1]
        return [i for i in lanes if self.servers[i] == self.servers[lanes[0]]]

    def _drafts_more(self, sheet: Sheet) -> bool:
        # Once members have begun to verify a block they finish it, though a part is settled and there were room for
        # more.
        is_over = sheet.has_declined(self.lane) or is_being_verified(sheet, but=self.lane)
        return not is_over and not self.is_block_full(sheet)

    @classmethod
    def make(cls, plan: Plan, setting: Setting) -> "Fixed":
        """By the first drafter, or else the first member, unless the plan names another."""
        if len(plan.gammas) > 1:
            raise InvalidSchedule(f"fixed has one proposer and takes one gamma, got {list(plan.gammas)}")
        lane = setting.lanes.index(plan.proposer or (setting.drafters or setting.members)[0])
        is_run, one_by_one = lane in setting.runs, setting.may_settle_early
        gamma, stop = block_length(plan, is_run=is_run)
        return cls(lane=lane, gamma=gamma, stop=stop, is_run=is_run, one_by_one=one_by_one, servers=setting.servers)

    @classmethod
    def candidates(cls, setting: Setting) -> Sequence[Plan]:
        proposers = setting.lanes if len(setting.members) > 1 else setting.drafters
        return [Plan(schedule="fixed", gamma=PACED, proposer=name) for name in proposers]

    @classmethod
    def benchmarked(cls, setting: Setting) -> Plan | None:
        if not setting.drafters and len(setting.members) == 1:
            return None
        return Plan(schedule="fixed", proposer=next(iter(setting.drafters), None))

    @classmethod
    def verified(cls, setting: Setting) -> Sequence[Plan]:
        by_member = Plan(schedule="fixed", gamma=3, proposer=setting.members[0] if setting.drafters else None)
        return [by_member, *(Plan(schedule="fixed", gamma=PACED, proposer=name) for name in setting.drafters)]

    def acceptance(self, estimates: Estimates, place: int | None) -> float:
        return estimates.acceptance(self.lane, None, place)

    def drafting_seconds(self, estimates: Estimates) -> float:
        """A longer run takes no more than a short one."""
        return 0.0 if self.is_run else self._seconds_of_drafting(estimates)

    def _seconds_of_drafting(self, estimates: Estimates) -> float:
        """A round in which the lane drafts."""
        return estimates.seconds(self.lane, 1) + estimates.engine_seconds(0)

    def scoring_seconds(self, num_tokens: int, estimates: Estimates) -> float:
        return seconds_of_all(estimates, num_tokens, without=self.lane)

    def cycle_of(self, stand: Sequence[float], estimates: Estimates) -> Cycle:
        gamma = len(stand) - 1
        if self.lane >= estimates.num_members:
            drafting = (1 if self.is_run else gamma) * self._seconds_of_drafting(estimates)
            scoring = seconds_of_all(estimates, gamma + 1) + estimates.engine_seconds(gamma + 1)
            return Cycle(sum(stand), drafting + scoring)
        # A member is not fed its last draft with the others: the token behind a block accepted whole takes its pass. So
        # sequences come out of step, and while some draft, others are scored.
        # That token is decided in a round of its own, the drafts before it in one of the others.
        passes = gamma + stand[gamma]
        drafting_share, scoring_share = passes / (passes + 1), 1 / (passes + 1)
        drafting = passes * estimates.seconds(self.lane, 1, drafting_share)
        scoring = seconds_of_all(estimates, gamma + 1, without=self.lane, share=scoring_share)
        engine = (
            gamma * estimates.engine_seconds(0, drafting_share)
            + stand[gamma] * estimates.engine_seconds(1, drafting_share)
            + estimates.engine_seconds(gamma + 1, scoring_share)
        )
        return Cycle(sum(stand), drafting + scoring + engine)

"""`mixture`: each token of a sampled mixture is a token of one member, drawn ahead (ME, Fu et al. 2026), with drafters
or without."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from ..core.combine import Mixture
from ..core.draws import Purpose
from ..core.sheet import Sheet
from ..errors import InvalidSchedule
from .blocks import BlockDrafting, block_length, is_being_verified
from .plan import EACH, PACED, Plan, Setting
from .theory import Cycle, Estimates, Measurements, chances_of_settled, served_together

# Backlogs of a member are distinguished up to so many tokens where members are drawn one by one.
MOST_BACKLOG = 8


@dataclass(frozen=True, kw_only=True)
class DrawnMember(BlockDrafting):
    """A token of a mixture is a token of one member, drawn with the weights' probabilities.

    The other members are fed in one pass when their turn comes, or as their models run for other sequences. With
    drafters, `gamma` tokens are drafted first, each by the drafter of the member that is drawn for its position, and
    each position is verified against that member alone: given the draws, the sequence is a chain of the members'
    distributions. The draw for a position is made once, and holds until the position is settled. Where a draft before
    it is rejected it is made anew: how far members were fed, and so what was measured, may have depended on the old
    one.

    drafters: for each member the lane that drafts its positions; None for no drafts. among: the lanes that it may be.
    """

    weights: tuple[float, ...]
    drafters: tuple[int, ...] | None = None
    among: tuple[int, ...] = ()
    name = "mixture"
    special_proposers = (EACH,)

    def turn(self, sheet: Sheet) -> Sequence[int]:
        drafter = self._drafter(sheet)
        return self.cells(sheet, sheet.position) if drafter is None else [drafter]

    def proposer(self, sheet: Sheet) -> int | None:
        drafter = self._drafter(sheet)
        return drafter if drafter is not None and sheet.lanes[drafter].has(sheet.frontier) else None

    def cells(self, sheet: Sheet, position: int) -> tuple[int]:
        """The member drawn for this position."""
        uniform = sheet.draws.uniform(position, Purpose.MEMBER, sheet.epoch)
        return (next((i for i, reached in enumerate(self._reached[:-1]) if uniform < reached), len(self.weights) - 1),)

    def reach(self, sheet: Sheet, lane: int) -> int:
        """A member is needed up to its last turn among the drafted positions and the one behind them."""
        if lane not in sheet.members:
            return sheet.frontier
        positions = range(sheet.frontier, sheet.position, -1)
        return next((i for i in positions if lane in self.cells(sheet, i)), sheet.position)

    def syncs_idle_members(self, sheet: Sheet) -> bool:
        """Where nothing is ever drafted, the drawn member settles the position in the round that feeds it."""
        return self.drafters is None

    @property
    def drafter_of_each(self) -> Sequence[int]:
        return self.drafters if self.drafters is not None and len(self.among) > 1 else ()

    def may_be_left(self, sheet: Sheet) -> bool:
        """Behind drafts that were all accepted the next member is drawn already, and its row may have been read: it
        must have its turn."""
        return not sheet.ends_in_draft

    @cached_property
    def _reached(self) -> list[float]:
        return list(itertools.accumulate(self.weights))

    def _drafter(self, sheet: Sheet) -> int | None:
        """The lane that drafts the token at the frontier, if it is to be drafted."""
        if self.drafters is None or self.is_block_full(sheet):
            return None
        (member,) = self.cells(sheet, sheet.frontier)
        drafter = self.drafters[member]
        is_over = sheet.has_declined(drafter) or is_being_verified(sheet, but=drafter)
        return None if is_over else drafter

    @classmethod
    def make(cls, plan: Plan, setting: Setting) -> "DrawnMember":
        """Without drafts unless the plan has a gamma or a proposer."""
        reason = why_not(plan, setting)
        if reason:
            raise InvalidSchedule(f"the mixture schedule {reason}; use alternate or auto")
        assert isinstance(setting.combination, Mixture)
        weights = setting.combination.weights
        if plan.gamma is None and plan.proposer is None:
            return cls(weights=weights, gamma=0)
        if len(plan.gammas) > 1:
            raise InvalidSchedule(f"mixture drafts for all members alike and takes one gamma, got {list(plan.gammas)}")
        gamma, stop = block_length(plan)
        drafters, among = _drafters(plan, setting)
        return cls(weights=weights, gamma=gamma, stop=stop, drafters=drafters, among=among)

    @classmethod
    def candidates(cls, setting: Setting) -> Sequence[Plan]:
        if len(setting.members) == 1:
            return []
        drafted = [Plan(schedule="mixture", gamma=PACED, proposer=_best_proposer(setting))] if setting.drafters else []
        return [Plan(schedule="mixture"), *drafted]

    @classmethod
    def verified(cls, setting: Setting) -> Sequence[Plan]:
        drafted = [Plan(schedule="mixture", gamma=PACED, proposer=name) for name in setting.drafters]
        return [Plan(schedule="mixture"), *drafted]

    @classmethod
    def owners(cls, plan: Plan, setting: Setting) -> Sequence[int]:
        """Where each member has its own drafter, that member; the first one for drafters that are left over."""
        if plan.proposer != EACH or EACH in setting.lanes:
            return super().owners(plan, setting)
        return [index if index < len(setting.members) else 0 for index in range(len(setting.drafters))]

    def tuned(self, measured: Measurements, *, speed: float, best: float) -> Self:
        """Also gives each member the drafter whose token is worth the most to it, in tokens: that it is accepted, with
        an optimism bonus, less what the fastest plan writes while it is drafted."""
        if self.drafters is None:
            return self

        def worth(drafter: int, member: int) -> float:
            bonus = measured.optimism(drafter, member)
            drafting = measured.seconds(drafter, 1) + measured.engine_seconds(0)
            return measured.acceptance(drafter, member) + bonus - drafting * best

        worths = [[worth(drafter, member) for drafter in self.among] for member in range(len(self.weights))]
        lanes = tuple(self.among[own.index(max(own))] for own in worths)
        own = replace(self, drafters=lanes)
        return super(DrawnMember, own).tuned(measured, speed=speed, best=best)

    # Theory.

    def cycle(self, estimates: Estimates) -> Cycle:
        """Without drafts one pass a token; a member drawn with probability w comes back after a geometric number of
        tokens, and is fed them. Members of one runner are fed together whenever one of them is drawn: where one runner
        serves all, a token costs what it does under `plain`."""
        if self.drafters is not None:
            return super().cycle(estimates)
        seconds = 0.0
        for lanes in served_together(estimates, range(len(self.weights))):
            weight = min(1.0, sum(self.weights[i] for i in lanes))
            chances = [weight * (1 - weight) ** k for k in range(MOST_BACKLOG)]
            chances[-1] += 1 - sum(chances)
            backlog = (
                chance * estimates.seconds(lanes[0], k * len(lanes), weight)
                for k, chance in enumerate(chances, start=1)
            )
            seconds += weight * sum(backlog)
        return Cycle(1.0, seconds + estimates.engine_seconds(1))

    def acceptance(self, estimates: Estimates, place: int | None) -> float:
        """By the member that is drawn, of the tokens of its drafter."""
        drafters = enumerate(zip(self.weights, self.drafters or (), strict=True))
        return sum(weight * estimates.acceptance(drafter, member, place) for member, (weight, drafter) in drafters)

    def drafting_seconds(self, estimates: Estimates) -> float:
        """A drafter that drafts for a share of the positions is fed what it missed with each."""
        shares: dict[int, float] = defaultdict(float)
        for weight, drafter in zip(self.weights, self.drafters or (), strict=True):
            shares[drafter] += weight
        passes = sum(share * estimates.seconds(drafter, 1 / share, share) for drafter, share in shares.items())
        return passes + estimates.engine_seconds(0)

    def scoring_seconds(self, num_tokens: int, estimates: Estimates) -> float:
        """Where members are drawn, one is not needed for all blocks."""
        return sum(
            (1 - (1 - weight) ** 2) * estimates.seconds(member, num_tokens)
            for member, weight in enumerate(self.weights)
        )

    def cycle_of(self, stand: Sequence[float], estimates: Estimates) -> Cycle:
        """A member runs if it was drawn for one of the positions that are settled, and is fed up to the last that it
        was drawn for: each token that is settled, sooner or later, and those of the drafts so fed that are rejected.
        Members run one after the other, each in a round that decides some of the drafts."""
        gamma, tokens = len(stand) - 1, sum(stand)
        seconds = gamma * self.drafting_seconds(estimates)
        rounds = 0.0
        for member, weight in enumerate(self.weights):
            settled = chances_of_settled(stand).items()
            is_needed = sum(chance * (1 - (1 - weight) ** k) for k, chance in settled)
            wasted = sum(chance * _wasted(weight, gamma, k) for k, chance in settled)
            seconds += is_needed * estimates.seconds(member, (tokens + wasted) / is_needed, weight)
            rounds += is_needed
        return Cycle(tokens, seconds + rounds * estimates.engine_seconds(1 + gamma / rounds))


def why_not(plan: Plan, setting: Setting) -> str | None:
    """Why r's tokens cannot be drawn member by member, or None if they can."""
    if type(setting.combination) is not Mixture:
        return f"draws each token from one member of a weighted mixture, and the target is {setting.combination.name}"
    if plan.verification == "coupled":
        return "never sees r, so coupled verification cannot be had with it"
    if not setting.params.is_identity:
        return "needs r untouched: temperature 1, no top-k, top-p, min-p, penalties, logit bias or min_tokens"
    return None


def _best_proposer(setting: Setting) -> str:
    """Of several drafters each member has the best for it, which one for all cannot be better than."""
    return EACH if len(setting.drafters) > 1 else setting.drafters[0]


def _drafters(plan: Plan, setting: Setting) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The drafter of each member, and those that it may be: the one that the plan names, or each its own, the last for
    the rest."""
    num_members = len(setting.members)
    if plan.proposer != EACH or EACH in setting.lanes:
        drafter = setting.drafter_of(plan)
        return (drafter,) * num_members, (drafter,)
    if not setting.drafters:
        raise InvalidSchedule("proposer each is a drafter for each member, and there is none; give models as proposers")
    lanes = tuple(range(num_members, len(setting.lanes)))
    return tuple(lanes[min(i, len(lanes) - 1)] for i in range(num_members)), lanes


def _wasted(weight: float, gamma: int, num_settled: int) -> float:
    """Drafts that a member is fed in vain, on average over all blocks: it is drawn for one of the positions that are
    settled, and last for the position behind `last` drafts, of which `num_settled` - 1 are accepted."""
    is_needed = 1 - (1 - weight) ** num_settled
    return sum(
        weight * (1 - weight) ** (gamma - last) * is_needed * (last - num_settled + 1)
        for last in range(num_settled, gamma + 1)
    )

"""Which of several plans is held to be the fastest, and which may be."""

import math
from collections.abc import Mapping

from .base import Schedule
from .beliefs import Beliefs, Pair
from .snapshot import Prices, Snapshot, as_feared, as_hoped, at_best

# A plan is left only for one whose predicted speed is so much higher.
HYSTERESIS = 1.03
# Optimism bonus of a plan, .05 / sqrt(1 + windows): one that was never timed is tried if it is predicted so close to
# the best.
OPTIMISM = 0.05
# A plan is known once the acceptances that it depends on were compared so often; by several sequences, which all wait
# for one that is taken for better than it is, more often.
NUM_KNOWN, NUM_KNOWN_BY_SEVERAL = 3, 12
# What theory predicts of several sequences is off by up to this factor: where it says less, the clock decides.
CLOSE = 1.5
# What is worth comparing is found anew once another plan is chosen, and at one choice in so many.
CHOICES_A_COMPARISON = 4


class Choice:
    """Plans, by name, and what beliefs predict of each. Where `auto` may try one is its own business."""

    def __init__(self, candidates: Mapping[str, Schedule], beliefs: Beliefs) -> None:
        self.plans = dict(candidates)
        self.beliefs = beliefs
        self.predictions: dict[str, float] = {}
        self._chosen = ""
        # Each plan's pairs, once it was predicted, and those that its settings depend on.
        self._pairs: dict[str, set[Pair]] = {}
        self._weighed: dict[str, set[Pair]] = {}
        # What to compare; None for everything.
        self._compared: set[Pair] | None = None
        self._num_choices = 0
        # Those of the last decision.
        self._prices = Prices(beliefs)

    def _choose(self) -> None:
        """The plan that is predicted to be the fastest, of those that may be run without a trial."""
        self._weigh()
        safe = self._safe()
        # A single plan, whose draft lengths alone are planned, is chosen unknown.
        speeds = {plan: speed for plan, speed in self.predictions.items() if plan in safe} or self.predictions
        best = max(speeds, key=speeds.__getitem__)
        is_other = self._chosen not in speeds or speeds[best] > HYSTERESIS * speeds[self._chosen]
        if is_other:
            self._chosen = best
        if is_other or self._num_choices % CHOICES_A_COMPARISON == 0:
            self._compared = self._worth_comparing()
        self._num_choices += 1

    def _weigh(self) -> None:
        """Predict the speed of all plans, tuned to what was measured."""
        self._prices = Prices(self.beliefs)
        now = Snapshot(self.beliefs, prices=self._prices)
        if not self.predictions:
            self.predictions = self.beliefs.predicted(self._theories(now))
        self._tune(now)
        self.predictions = self.beliefs.predicted(self._theories(now))

    def _hoped_for(self, least: float) -> str:
        """The plan that is the fastest if its speed is as little known as it was timed, and its acceptances are as high
        as they may be; of several sequences, as they were measured. least: tokens a second under which another than the
        one that is chosen is not worth a trial."""
        hoped = self.predictions
        if self.beliefs.bucket == 1:
            hoped = self.beliefs.predicted(self._theories(Snapshot(self.beliefs, as_hoped, self._prices)))
        optimistic = {
            plan: speed * (1 + OPTIMISM / math.sqrt(1 + self.beliefs.num_windows(plan)))
            for plan, speed in hoped.items()
        }
        least = max(least, HYSTERESIS * self.predictions[self._chosen])
        optimistic[self._chosen] = max(optimistic[self._chosen], least)
        return max(optimistic, key=optimistic.__getitem__)

    def _hoped_speed(self, plan: str) -> float:
        """What theory predicts of the plan if its acceptances are as high as they may be."""
        return self.plans[plan].cycle(Snapshot(self.beliefs, as_hoped)).speed

    @property
    def first(self) -> str:
        """The plan that all others are held against."""
        return next(iter(self.plans))

    def _is_known(self, plan: str) -> bool:
        """Whether the acceptances that it depends on are."""
        least = NUM_KNOWN if self.beliefs.bucket == 1 else NUM_KNOWN_BY_SEVERAL
        return all(self.beliefs.num_compared(pair) >= least for pair in self._pairs[plan])

    def _is_timed(self, plan: str) -> bool:
        """Whether it was timed at the present number of sequences, where there are several. Those leave and come to the
        same plan one after the other, and members run beside each other or not, which no formula tells: for one
        sequence theory is right enough."""
        return self.beliefs.bucket == 1 or self.beliefs.num_windows(plan) > 0

    def _safe(self) -> set[str]:
        """The plans that may be run without a trial: the first, and those that are known and timed, or would be so much
        faster than the first, were their acceptances as low as they may be, that they are surely no slower."""
        known = {plan for plan in self.plans if self._is_known(plan)}
        timed = {plan for plan in known if plan == self.first or self._is_timed(plan)}
        if timed == known:
            return known
        feared = self.beliefs.predicted(self._theories(Snapshot(self.beliefs, as_feared, self._prices)))
        least = CLOSE * self.predictions[self.first]
        return timed | {plan for plan in known if feared[plan] > least}

    def _worth_comparing(self) -> set[Pair] | None:
        """The pairs of the plan that is chosen and of those that would be faster if every draft were accepted, and
        members with each other where several of them propose; None for all, where nothing can be predicted yet."""
        least = HYSTERESIS * self.predictions[self._chosen]
        if least <= 0 or not self.beliefs.knows_the_engine:
            return None
        ceilings = self._theories(Snapshot(self.beliefs, at_best, self._prices))
        hopeful = [plan for plan, speed in ceilings.items() if speed > least or plan == self._chosen]
        pairs = {pair for plan in hopeful for pair in self._pairs[plan] | self._weighed[plan]}
        members = {pair.proposer for pair in pairs if pair.proposer < self.beliefs.num_members}
        return pairs | {Pair(one, other) for one in members for other in members if one != other}

    def _tune(self, now: Snapshot) -> None:
        best = self.predictions.get(self._chosen, 0.0)
        for plan, schedule in [*self.plans.items()]:
            now.asked.clear()
            self.plans[plan] = schedule.tuned(now, speed=self.predictions[plan], best=best)
            self._weighed[plan] = set(now.asked)

    def predict(self) -> dict[str, float]:
        """Tokens a second of each plan, all sequences together, under what is known now."""
        return self.beliefs.predicted({plan: self._theory(plan) for plan in self.plans})

    def _theories(self, estimates: Snapshot) -> dict[str, float]:
        """Tokens a second of each plan's cycle, which notes the pairs that each asks for."""
        speeds = {}
        for plan, schedule in self.plans.items():
            estimates.asked.clear()
            speeds[plan] = schedule.cycle(estimates).speed
            self._pairs[plan] = set(estimates.asked)
        return speeds

    def _theory(self, plan: str) -> float:
        return self.plans[plan].cycle(Snapshot(self.beliefs)).speed

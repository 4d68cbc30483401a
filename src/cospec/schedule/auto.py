"""`auto`: predict each plan's speed from what was measured, and run the fastest.

From every forward pass it learns what a lane's passes cost, and from the rows themselves how often each proposer would
be accepted: 1 - TV between its row and the target's, for all proposers that have a row, whoever drafted. Theory makes
speeds of that, and the clock corrects them: sequences run one plan at a time, in measurement windows, and the ratio of
a plan's measured to its predicted speed corrects its later predictions. Which plan runs changes the speed and never the
distribution, and a sequence changes its plan only where nothing is drafted.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..core.policy import Round
from ..core.sheet import Sheet
from ..core.tokens import Token
from ..errors import InvalidSchedule
from .base import Schedule
from .beliefs import Beliefs
from .drafting import AcceptanceByConfidence
from .mixture import DrawnMember, why_not
from .plan import EACH, PACED, Plan, Setting
from .registry import make_schedule

# A plan is left only for one whose predicted speed is so much higher.
HYSTERESIS = 1.03
# Optimism bonus of a plan, .05 / sqrt(1 + windows): one that was never timed is tried if it is predicted so close to
# the best.
OPTIMISM = 0.05
# A window is over after so many tokens, more for each sequence of several, and after so many seconds.
WINDOW_TOKENS, WINDOW_TOKENS_A_SEQUENCE, WINDOW_SECONDS = 18, 6, 0.3
# Tokens of the first windows, which are there so that everything that predictions need was measured once.
EXPLORATION_TOKENS = 6
# The part of a window that is enough to time the first plan: its speed depends on no acceptance.
PART_OF_A_WINDOW = 1 / 3
# One window in so many tries a drafter again, whatever it achieved before: texts change.
WINDOWS_AN_EXPLORATION = 80
# Feed an idle drafter for at most 1 % of a sequence's time and at most every 16 tokens, to keep its acceptance estimate
# current.
SHADOW_SHARE, TOKENS_A_SHADOW = 0.01, 16
# After the first comparisons of rows, rows are compared at one in so many settlements, of one sequence or each of
# several.
COMPARE_ONE_IN = 4
NUM_COMPARED_ALWAYS = 32


@dataclass(eq=False)
class Window:
    """A measurement window: rounds in which all sequences run one plan.

    bucket: of the number of sequences. part: of a window's usual length, after which it is over. tokens, seconds: of
    all sequences together, once all had changed to the plan.
    """

    plan: str
    bucket: int = 1
    part: float = 1.0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class Running:
    """What a sequence runs.

    window: the one whose plan it is. schedule: the plan's. backlog: tokens that each member was still to be fed after
    the last round. shadowed: the position where an idle drafter was fed last. shadow_budget: seconds, SHADOW_SHARE of
    the elapsed time.
    """

    window: Window
    schedule: Schedule
    backlog: list[int] | None = None
    shadowed: int = -TOKENS_A_SHADOW
    shadow_budget: float = 0.0


class Auto(Schedule):
    """The plan that is predicted to be the fastest, for all sequences of one ensemble and one way of sampling.

    candidates: name -> schedule, `plain` first. explorations: names of the plans that are run first, `plain`, then one
    for each drafter. name: the schedule that was asked for, `auto`, or one whose draft lengths are planned.
    """

    name = "auto"
    can_be_paced = False

    def __init__(
        self, candidates: Mapping[str, Schedule], explorations: Sequence[str], beliefs: Beliefs, name: str = "auto"
    ) -> None:
        self.plans = dict(candidates)
        self.beliefs = beliefs
        self.predictions: dict[str, float] = {}
        self.num_shadowed: Counter[int] = Counter()
        self.name = name
        self._explorations = list(explorations)
        self._chosen = ""
        self._window: Window | None = None
        self._running: dict[Sheet, Running] = {}
        self._by_confidence = {plan: AcceptanceByConfidence() for plan in candidates}
        self._num_settled = self._num_explorations = self._num_windows = 0

    @classmethod
    def of_plans(cls, plans: Sequence[Plan], setting: Setting, name: str) -> "Auto":
        """An `auto` over these plans, which has measured nothing yet."""
        # One plan a drafter, so that its cost and its acceptance are measured.
        first_of = {plan.proposer: str(plan) for plan in reversed(plans) if plan.proposer in setting.drafters}
        return cls(
            candidates={str(plan): make_schedule(plan, setting) for plan in plans},
            explorations=[*dict.fromkeys([str(plans[0]), *first_of.values()])],
            beliefs=Beliefs(setting.combination, len(setting.members), setting.params),
            name=name,
        )

    @classmethod
    def make(cls, plan: Plan, setting: Setting) -> Schedule:
        """That of the resolved plan."""
        return make_schedule(cls.resolved(plan, setting), setting)

    @classmethod
    def resolved(cls, plan: Plan, setting: Setting) -> Plan:
        """What `auto` runs where it may not measure: a drafter's drafts, else a mixture by drawn members, else in
        turn."""
        is_mixed = len(setting.members) > 1 and not why_not(plan, setting)
        if plan.proposer in setting.drafters or (setting.drafters and plan.proposer is None):
            drafted = plan if plan.gamma is not None else replace(plan, gamma=PACED)
            return replace(drafted, schedule="mixture" if is_mixed else "fixed")
        if len(setting.members) == 1:
            if plan.gamma is not None:
                raise InvalidSchedule(
                    f"one member alone drafts nothing, so gamma {plan.gamma} needs a proposer beside it"
                )
            return Plan(schedule="plain", verification=plan.verification)
        drawn = plan.gamma is None and plan.proposer is None and is_mixed
        return replace(plan, schedule="mixture" if drawn else "alternate")

    @classmethod
    def owners(cls, plan: Plan, setting: Setting) -> Sequence[int]:
        """Those of a mixture in which each member has its own drafter, where that is one of the plans."""
        if len(setting.members) > 1 and not why_not(plan, setting):
            return DrawnMember.owners(replace(plan, proposer=EACH), setting)
        return super().owners(plan, setting)

    @classmethod
    def candidates(cls, setting: Setting) -> Sequence[Plan]:
        """None: it does not weigh itself."""
        return []

    @classmethod
    def verified(cls, setting: Setting) -> Sequence[Plan]:
        """None: it runs the other schedules' plans, and is compared where it is an ensemble's own plan."""
        return []

    def state(self) -> dict[str, Any]:
        """What it has measured and chosen, in JSON's types, for a later process to go on with."""
        return {
            "beliefs": self.beliefs.state(),
            "by_confidence": {plan: each.state() for plan, each in self._by_confidence.items()},
            "chosen": self._chosen,
            "num_settled": self._num_settled,
            "num_explorations": self._num_explorations,
            "num_windows": self._num_windows,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave, over the same plans, before anything is decoded."""
        self.beliefs.restore(state["beliefs"])
        for plan, own in state["by_confidence"].items():
            self._by_confidence[plan].restore(own)
            self.plans[plan] = self.plans[plan].with_acceptances(self._by_confidence[plan].values)
        self._num_settled = state["num_settled"]
        # An exploration that was cut off is run again.
        self._num_explorations = max(0, state["num_explorations"] - (not state["chosen"]))
        self._num_windows = state["num_windows"]
        self._chosen = state["chosen"]
        if self._chosen:
            self._tune()
            self.predictions = self.predict()
            self._tune()

    # Questions: those of the plan that the sequence runs.

    def running(self, sheet: Sheet) -> Schedule:
        """The schedule that the sequence runs."""
        return self._running[sheet].schedule

    def turn(self, sheet: Sheet) -> Sequence[int]:
        return self.running(sheet).turn(sheet)

    def proposer(self, sheet: Sheet) -> int | None:
        return self.running(sheet).proposer(sheet)

    def cells(self, sheet: Sheet, position: int) -> Sequence[int]:
        return self.running(sheet).cells(sheet, position)

    def reach(self, sheet: Sheet, lane: int) -> int:
        return self.running(sheet).reach(sheet, lane)

    def refiner(self, sheet: Sheet) -> int | None:
        return self.running(sheet).refiner(sheet)

    def syncs_idle_members(self, sheet: Sheet) -> bool:
        return self.running(sheet).syncs_idle_members(sheet)

    def may_be_left(self, sheet: Sheet) -> bool:
        return self.running(sheet).may_be_left(sheet)

    def shadows(self, sheet: Sheet) -> Sequence[int]:
        """The idle drafter that was fed the least, where its pass is within what the sequence may spend."""
        own, lanes = self._running[sheet], sheet.lanes
        if not self._chosen or sheet.position < own.shadowed + TOKENS_A_SHADOW:
            return ()
        idle = [i for i in sheet.drafters if not lanes[i].has(sheet.position)]
        drafter = min(idle, key=self.num_shadowed.__getitem__, default=None)
        if drafter is None:
            return ()
        seconds = self.beliefs.costs.seconds(drafter, sheet.frontier - lanes[drafter].seen)
        return (drafter,) if seconds <= own.shadow_budget else ()

    def label(self, sheet: Sheet) -> str:
        """The plan that the sequence runs."""
        own = self._running.get(sheet)
        return self.name if own is None else f"{own.window.plan} (chosen by {self.name})"

    def plan_of(self, sheet: Sheet) -> str | None:
        """The one that is held to be the fastest, or else what the sequence runs."""
        own = self._running.get(sheet)
        return self.chosen or (own.window.plan if own else None)

    @property
    def chosen(self) -> str | None:
        """The plan that is held to be the fastest; None until every exploration was run."""
        return self._chosen or None

    # Events. They go on to the schedules that sequences run; a change of plan ends one and begins the next.

    def on_begin(self, sheet: Sheet) -> None:
        if self._window is None:
            self._window = self._next()
        own = self._running[sheet] = Running(self._window, self.plans[self._window.plan])
        own.schedule.on_begin(sheet)

    def on_end(self, sheet: Sheet) -> None:
        own = self._running.pop(sheet, None)
        if own is not None:
            own.schedule.on_end(sheet)

    def on_forward(self, lane: int, num_tokens: int, seconds: float) -> None:
        self.beliefs.costs.add(lane, num_tokens, seconds)
        for schedule in {id(own.schedule): own.schedule for own in self._running.values()}.values():
            schedule.on_forward(lane, num_tokens, seconds)

    def on_shadow(self, sheet: Sheet, lane: int) -> None:
        own = self._running[sheet]
        own.shadowed, own.shadow_budget = sheet.position, 0.0
        self.num_shadowed[lane] += 1

    def on_settled(self, sheet: Sheet, tokens: Sequence[Token]) -> None:
        own, first = self._running[sheet], sheet.position - len(tokens)
        self._learn_confidence(own.window.plan, tokens)
        self._num_settled += 1
        is_one_in_many = self._num_settled % (COMPARE_ONE_IN * self.beliefs.num_live) == 0
        if self._num_settled <= NUM_COMPARED_ALWAYS or is_one_in_many or own.shadowed == first:
            self.beliefs.compare(sheet, first, sheet.position)
        own.schedule.on_settled(sheet, tokens)
        assert self._window is not None
        # Where nothing is drafted the sequence goes over to the plan of the present window.
        if not sheet.drafts and own.schedule.may_be_left(sheet):
            before, next_schedule = own.schedule, self.plans[self._window.plan]
            is_change = own.window.plan != self._window.plan
            own.window, own.schedule = self._window, next_schedule
            if is_change:
                before.on_end(sheet)
                next_schedule.on_begin(sheet)

    def on_round(self, done: Round) -> None:
        self.beliefs.record_round(done)
        running = [self._running[sheet] for sheet in done.sheets]
        for own in running:
            own.shadow_budget += SHADOW_SHARE * done.seconds / done.num_live
        if len({id(own.schedule) for own in running}) == 1:
            running[0].schedule.on_round(done)
        deferred = self._deferred_seconds(done.sheets)
        window = self._window
        assert window is not None
        if not done.has_prefill and all(own.window is window for own in running):
            window.tokens += done.num_settled
            window.seconds += done.seconds + deferred
        if self._is_over(window):
            self._window = self._next()

    def _deferred_seconds(self, sheets: Sequence[Sheet]) -> float:
        """Seconds for the tokens that members are still to be fed, more than before the round, each at the cost of one
        token more in a pass: a plan under which members wait would seem fast until they are fed."""
        more = [0] * self.beliefs.num_members
        # A finished sequence is not fed any more, which is no time saved in its last round.
        for sheet in (sheet for sheet in sheets if not sheet.is_finished):
            # Under any plan the last token is fed in the next round, and a prompt is no part of a plan.
            unfed = [max(0, sheet.position - 1 - max(0, sheet.lanes[i].seen)) for i in sheet.members]
            own = self._running[sheet]
            for i, (now, before) in enumerate(zip(unfed, own.backlog or unfed, strict=True)):
                more[i] += now - before
            own.backlog = unfed
        costs, num_live = self.beliefs.costs, self.beliefs.num_live
        return sum(costs.seconds_more(lane, num_live) * tokens for lane, tokens in enumerate(more) if tokens)

    # The decision.

    def _is_over(self, window: Window) -> bool:
        if not self._chosen:
            return window.tokens >= EXPLORATION_TOKENS
        if window.bucket != self.beliefs.bucket:
            return True
        tokens = WINDOW_TOKENS + WINDOW_TOKENS_A_SEQUENCE * self.beliefs.num_live
        return window.tokens >= window.part * tokens and window.seconds >= window.part * WINDOW_SECONDS

    def _next(self) -> Window:
        """Each of the explorations, and seldom one of them again; then the first plan if it was never timed at this
        batch size; then the best, or one that might be better still."""
        bucket = self.beliefs.bucket
        if self._num_explorations < len(self._explorations):
            self._num_explorations += 1
            return Window(self._explorations[self._num_explorations - 1], bucket)
        if self._window is not None and self._chosen:
            self._learn(self._window)
        self._choose()
        self._num_windows += 1
        drafters = self._explorations[1:]
        if drafters and self._num_windows % WINDOWS_AN_EXPLORATION == 0:
            return Window(drafters[self._num_windows // WINDOWS_AN_EXPLORATION % len(drafters)], bucket)
        first = next(iter(self.plans))
        # The speed that all are held against must be measured, not predicted.
        if self.beliefs.num_windows(first) == 0:
            return Window(first, bucket, PART_OF_A_WINDOW)
        optimistic = {
            plan: speed * (1 + OPTIMISM / math.sqrt(1 + self.beliefs.num_windows(plan)))
            for plan, speed in self.predictions.items()
        }
        optimistic[self._chosen] = max(optimistic[self._chosen], self.predictions[self._chosen] * HYSTERESIS)
        return Window(max(optimistic, key=optimistic.__getitem__), bucket)

    def _learn_confidence(self, plan: str, tokens: Sequence[Token]) -> None:
        """What became of this plan's drafts, by their proposer's confidence."""
        verified = [token for token in tokens if token.confidence is not None]
        for token in verified:
            self._by_confidence[plan].add(token.confidence or 0.0, is_accepted=token.replaced is None)
        if verified:
            self.plans[plan] = self.plans[plan].with_acceptances(self._by_confidence[plan].values)

    def _learn(self, window: Window) -> None:
        """Record the window's speed, if it had any, against theory's."""
        theory = self._theory(window.plan)
        if theory > 0 and window.tokens > 0 and window.bucket == self.beliefs.bucket:
            self.beliefs.record_window(window.plan, theory, window.tokens, window.seconds)

    def _choose(self) -> None:
        """The plan that is predicted to be the fastest, with all plans tuned to what was measured."""
        self._tune()
        self.predictions = self.predict()
        best = max(self.predictions, key=self.predictions.__getitem__)
        if not self._chosen or self.predictions[best] > HYSTERESIS * self.predictions[self._chosen]:
            self._chosen = best
        self._tune()

    def _tune(self) -> None:
        best = self.predictions.get(self._chosen, 0.0)
        self.plans = {
            plan: schedule.tuned(self.beliefs, speed=self.predictions.get(plan, 0.0), best=best)
            for plan, schedule in self.plans.items()
        }

    def predict(self) -> dict[str, float]:
        """Tokens a second of each plan, all sequences together, under what is known now."""
        return self.beliefs.predicted({plan: self._theory(plan) for plan in self.plans})

    def _theory(self, plan: str) -> float:
        return self.plans[plan].cycle(self.beliefs).speed

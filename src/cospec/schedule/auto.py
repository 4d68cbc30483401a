"""`auto`: predict each plan's speed from what was measured, and run the fastest.

From every forward pass it learns what a runner's passes cost, and from the rows themselves how often each proposer
would be accepted: 1 - TV between its row and the target's, for all proposers that have a row, whoever drafted. Theory
makes speeds of that, and the clock corrects them: sequences run one plan at a time, in measurement windows, and the
ratio of a plan's measured to its predicted speed corrects its later predictions. A plan that is not held to be the
fastest, and may be by as much as its acceptances are unsure, is tried for a few tokens, as long as trials have lost no
more than they may (`trials`); where these acceptances are members' alone, the first plan is, which shows them and loses
less. Which plan runs changes the speed and never the distribution, and a sequence changes its plan only where nothing
is drafted.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..core.policy import Policy, Round
from ..core.sheet import Sheet
from ..core.tokens import Token
from ..errors import InvalidSchedule
from .base import Schedule
from .beliefs import Beliefs
from .choice import CLOSE, Choice
from .drafting import AcceptanceByConfidence
from .mixture import DrawnMember, why_not
from .plan import EACH, PACED, Plan, Setting
from .registry import make_schedule
from .shadows import Shadows
from .trials import FIRST_SHARE, TrialBudget, Window

# A window is over after so many tokens, more for each sequence of several, and after so many seconds. The first are
# shorter: by one in so many, then two, and so on.
WINDOW_TOKENS, WINDOW_TOKENS_A_SEQUENCE, WINDOW_SECONDS = 18, 6, 0.3
NUM_SHORT = 8
# The part of the time that choosing plans may take: windows are longer where it takes longer.
CHOOSING_SHARE = 0.01
# Windows of a plan are recorded together once they have a window's tokens and took so many seconds.
SECONDS_TIMED = 0.1
# Tokens of a first window in which all that predictions need is measured, forward passes among it; and where these are
# known, and the engine's own work is not, without which a plan of many short rounds seems fast.
EXPLORATION_TOKENS, ENGINE_TOKENS = 6, 2
# The part of a window that a trial has.
PART_OF_A_TRIAL = 1 / 8
# One window in so many tries a drafter again, whatever it achieved before: texts change.
WINDOWS_AN_EXPLORATION = 80
# After the first comparisons of rows, rows are compared where a plan is tried, and at one in so many settlements of one
# sequence or each of several, as long as comparing has taken no more than this part of the time.
COMPARE_ONE_IN, COMPARING_SHARE = 8, 0.005
NUM_COMPARED_ALWAYS = 8


@dataclass(eq=False)
class Running:
    """What a sequence runs.

    window: the one whose plan it is. schedule: the plan's. has_changed: whether it went over to that plan in this
    round, which settled what another had drafted. backlog: seconds for the tokens that members were still to be fed
    after the last round.
    """

    window: Window
    schedule: Schedule
    has_changed: bool = False
    backlog: float = 0.0


class Auto(Choice, Schedule):
    """The plan that is predicted to be the fastest, for all sequences of one ensemble and one way of sampling.

    candidates: name -> schedule, `plain` first. explorations: names of the plans that are tried now and then, one for
    each drafter. name: the schedule that was asked for, `auto`, or one whose draft lengths are planned.
    """

    name = "auto"
    can_be_paced = False

    def __init__(
        self, candidates: Mapping[str, Schedule], explorations: Sequence[str], beliefs: Beliefs, name: str = "auto"
    ) -> None:
        super().__init__(candidates, beliefs)
        self.shadowing = Shadows(beliefs)
        self.name = name
        self._explorations = list(explorations)
        self._window: Window | None = None
        self._running: dict[Sheet, Running] = {}
        # Sequences of which no round was run yet, in order.
        self._joined: dict[Sheet, None] = {}
        self._by_confidence = {plan: AcceptanceByConfidence() for plan in candidates}
        # Whether a plan's schedule wants to be told of passes or rounds: none that comes with cospec does.
        self._has_listeners = False
        self._budget = TrialBudget()
        self._num_settled = self._num_windows = 0
        # Windows that are still to be recorded, by plan and bucket. Of this round, seconds of drafters' passes, and
        # those that went into learning, by shadows' passes and by comparing rows, which are no part of a plan's speed.
        self._timed: dict[tuple[str, int], Window] = {}
        self._drafter_seconds = self._shadow_seconds = self._comparing_seconds = 0.0
        # Seconds of comparing in all rounds before, and those in which the present window's plan was chosen.
        self._compared_seconds = self._choosing_seconds = 0.0
        # Seconds of one token more in a pass, by lane, as they were when the present window first asked for them.
        self._seconds_more: dict[int, float] = {}

    @classmethod
    def of_plans(cls, plans: Sequence[Plan], setting: Setting, name: str) -> "Auto":
        """An `auto` over these plans, which has measured nothing yet."""
        # One plan a drafter, so that its cost and its acceptance are measured.
        first_of = {plan.proposer: str(plan) for plan in reversed(plans) if plan.proposer in setting.drafters}
        beliefs = Beliefs(setting.combination, len(setting.members), setting.params, setting.servers)
        for drafter, acceptance in setting.acceptances.items():
            beliefs.expect(drafter, acceptance)
        return cls(
            candidates={str(plan): make_schedule(plan, setting) for plan in plans},
            explorations=[*dict.fromkeys(first_of.values())],
            beliefs=beliefs,
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
            "num_windows": self._num_windows,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave, over the same plans, before anything is decoded."""
        self.beliefs.restore(state["beliefs"])
        for plan, own in state["by_confidence"].items():
            self._by_confidence[plan].restore(own)
            self.plans[plan] = self.plans[plan].with_acceptances(self._by_confidence[plan].values)
        self._num_settled = state["num_settled"]
        self._num_windows = state["num_windows"]
        self._chosen = state["chosen"] if state["chosen"] in self.plans else ""
        if self._chosen:
            self._budget = TrialBudget(first_tokens=0)
            self._weigh()

    def begin_with(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave in another process, perhaps long ago: as a first belief, to be measured again.

        Raises ValueError for one that had chosen nothing, or a plan that is not weighed here; and others for what no
        planner gave.
        """
        self.restore(state)
        if not self._chosen:
            raise ValueError(f"no plan that is weighed here was chosen: {state['chosen']!r}")
        self.beliefs.start_anew()
        self._num_windows = 0
        # What was chosen by the clock stands for the first window: without its speeds, less is known than then.
        self._weigh()
        self._compared = self._worth_comparing()
        self._num_choices += 1

    def begin_with_costs(self, costs: Sequence[Any]) -> None:
        """Take over the cost of forward passes, as `Costs.state` gives it, measured before anything was decoded."""
        self.beliefs.costs.restore([*costs])
        self._choose()

    # Questions: those of the plan that the sequence runs.

    @property
    def reads_confidence(self) -> bool:
        """Whether a schedule that a sequence runs reads it."""
        return any(own.schedule.reads_confidence for own in self._running.values())

    def turn(self, sheet: Sheet) -> Sequence[int]:
        return self._running[sheet].schedule.turn(sheet)

    def proposer(self, sheet: Sheet) -> int | None:
        return self._running[sheet].schedule.proposer(sheet)

    def cells(self, sheet: Sheet, position: int) -> Sequence[int]:
        return self._running[sheet].schedule.cells(sheet, position)

    def reach(self, sheet: Sheet, lane: int) -> int:
        return self._running[sheet].schedule.reach(sheet, lane)

    def refiner(self, sheet: Sheet) -> int | None:
        return self._running[sheet].schedule.refiner(sheet)

    def syncs_idle_members(self, sheet: Sheet) -> bool:
        return self._running[sheet].schedule.syncs_idle_members(sheet)

    def may_be_left(self, sheet: Sheet) -> bool:
        return self._running[sheet].schedule.may_be_left(sheet)

    def shadows(self, sheet: Sheet) -> Sequence[int]:
        return self.shadowing.of(sheet) if self._chosen else ()

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
        """The plan that is held to be the fastest; None until something was decoded."""
        return self._chosen or None if self._num_windows or self._num_settled else None

    # Events. They go on to the schedules that sequences run; a change of plan ends one and begins the next.

    def on_begin(self, sheet: Sheet) -> None:
        if self._window is None:
            self._budget.first_tokens = min(self._budget.first_tokens, FIRST_SHARE * sheet.limit)
        self._budget.num_expected += sheet.limit
        num_running, beliefs = len(self._running) + 1, self.beliefs
        beliefs.num_live = max(num_running, beliefs.num_live) if self._running else num_running
        window = self._window
        if window is None or window.bucket != beliefs.bucket:
            # Those that join before one round all run what is the fastest for so many.
            window = self._begin_window()
            for other in self._joined:
                self._running[other].schedule.on_end(other)
                self._begin(other, window)
        self._begin(sheet, window)
        self._joined[sheet] = None

    def _begin(self, sheet: Sheet, window: Window) -> None:
        """Let a sequence for which nothing was fed or drafted run the window's plan."""
        own = self._running[sheet] = Running(window, self.plans[window.plan])
        own.schedule.on_begin(sheet)

    def on_end(self, sheet: Sheet) -> None:
        self._joined.pop(sheet, None)
        self.shadowing.on_end(sheet)
        own = self._running.pop(sheet, None)
        if own is not None:
            self._budget.num_expected += sheet.position - sheet.limit
            own.schedule.on_end(sheet)

    def on_forward(self, lanes: Sequence[int], num_tokens: int, seconds: float) -> None:
        self.beliefs.costs.add(self.beliefs.server(lanes[0]), num_tokens, seconds)
        if lanes[0] >= self.beliefs.num_members:
            self._drafter_seconds += seconds
        if self._has_listeners:
            for schedule in _each_once(self._running.values()):
                schedule.on_forward(lanes, num_tokens, seconds)

    def on_shadow(self, sheet: Sheet, lane: int) -> None:
        self.shadowing.on_shadow(sheet, lane)
        self._shadow_seconds += self._drafter_seconds

    def on_settled(self, sheet: Sheet, tokens: Sequence[Token]) -> None:
        own, first = self._running[sheet], sheet.position - len(tokens)
        if own.schedule.reads_confidence:
            self._learn_confidence(own.window.plan, tokens)
        self._num_settled += 1
        if self._is_to_be_compared(own.window) or self.shadowing.was_heard_at(sheet, first):
            started = time.perf_counter()
            self.beliefs.compare(sheet, tokens, self._compared)
            self._comparing_seconds += time.perf_counter() - started
        own.schedule.on_settled(sheet, tokens)
        own.has_changed = self._goes_over(sheet, own)

    def _goes_over(self, sheet: Sheet, own: Running) -> bool:
        """Where nothing is drafted a sequence goes over to the present window, and to its plan. Whether it has left
        another window."""
        window = self._window
        assert window is not None
        before, next_schedule = own.schedule, self.plans[window.plan]
        is_there = own.window is window and before is next_schedule
        if is_there or sheet.drafts or not before.may_be_left(sheet):
            return False
        has_left, is_change = own.window is not window, own.window.plan != window.plan
        own.window, own.schedule = window, next_schedule
        if is_change:
            before.on_end(sheet)
            next_schedule.on_begin(sheet)
        return has_left

    def _is_to_be_compared(self, window: Window) -> bool:
        """Whether rows are compared at what a sequence has settled under this window's plan."""
        if self._compared is not None and not self._compared:
            return False
        if self._num_settled <= NUM_COMPARED_ALWAYS or (window.about and not self._is_known(window.about)):
            return True
        is_due = window.is_trial or self._num_settled % (COMPARE_ONE_IN * self.beliefs.num_live) == 0
        return is_due and self._compared_seconds <= COMPARING_SHARE * self._budget.elapsed

    def on_round(self, done: Round) -> None:
        self.beliefs.record_round(done, self._comparing_seconds)
        self._joined.clear()
        running = [self._running[sheet] for sheet in done.sheets]
        if done.sheets and done.sheets[0].drafters:
            self.shadowing.on_round(self._running, done.seconds, has_new=self._has_new_drafters())
        if self._has_listeners and len(schedules := _each_once(running)) == 1:
            schedules[0].on_round(done)
        window, has_settled = self._window, done.num_settled > 0
        assert window is not None
        # Where nothing was settled no window ends, unless it is a trial: what is deferred then shows in a later round.
        deferred = self._deferred_seconds(done.sheets) if has_settled or window.is_trial else 0.0
        self._budget.elapsed += done.seconds
        if done.has_prefill:
            window.prompt_seconds += self._drafter_seconds
        elif all(own.window is window and not own.has_changed for own in running):
            window.tokens += done.num_settled
            learning = self._shadow_seconds + self._comparing_seconds
            window.seconds += max(0.0, done.seconds - learning) + deferred
        elif (trial := self._budget.trial) is window or any(own.window is trial for own in running):
            trial.tokens_mixed += done.num_settled
            trial.seconds_mixed += done.seconds
        self._compared_seconds += self._comparing_seconds
        self._drafter_seconds = self._shadow_seconds = self._comparing_seconds = 0.0
        for own in running:
            own.has_changed = False
        has_drafts = any(sheet.drafts for sheet in done.sheets)
        if self._is_over(window, has_drafts=has_drafts, has_settled=has_settled):
            self._begin_window()
            for sheet, own in zip(done.sheets, running, strict=True):
                if _draws_nothing(own.schedule) and not sheet.is_finished:
                    self._goes_over(sheet, own)

    def _has_new_drafters(self) -> bool:
        """Whether several sequences would wait for a drafter of which it is not known yet what it is good for."""
        if not self._explorations or not self._chosen or self.beliefs.bucket == 1:
            return False
        return not all(map(self._is_known, self._explorations))

    def _deferred_seconds(self, sheets: Sequence[Sheet]) -> float:
        """Seconds for the tokens that members are still to be fed, more than before the round, each at the cost of one
        token more in a pass: a plan under which members wait would seem fast until they are fed."""
        deferred = 0.0
        for sheet in sheets:
            # A finished sequence is not fed any more, which is no time saved in its last round.
            if sheet.is_finished:
                continue
            # Under any plan the last token is fed in the next round, and a prompt is no part of a plan.
            own, last, backlog = self._running[sheet], sheet.position - 1, 0.0
            for lane in sheet.members:
                if (unfed := last - max(0, sheet.lanes[lane].seen)) > 0:
                    backlog += unfed * self._seconds_of_one_more(lane)
            deferred += backlog - own.backlog
            own.backlog = backlog
        return deferred

    def _seconds_of_one_more(self, lane: int) -> float:
        known = self._seconds_more.get(lane)
        if known is None:
            beliefs = self.beliefs
            known = beliefs.costs.seconds_more(beliefs.server(lane), beliefs.num_live)
            self._seconds_more[lane] = known
        return known

    # The decision.

    def _begin_window(self) -> Window:
        """The next window. Several sequences that run another plan leave it as soon as their drafts are verified, so
        that all are soon together; one alone goes on to the end of its cycle."""
        started = time.perf_counter()
        self._has_listeners = any(map(_listens, self.plans.values()))
        self._seconds_more.clear()
        window = self._window = self._next()
        self._choosing_seconds = window.choosing_seconds = time.perf_counter() - started
        for own in self._running.values():
            if own.window.plan != window.plan and window.bucket > 1:
                own.schedule = own.schedule.winding_down()
        return window

    def _is_over(self, window: Window, *, has_drafts: bool, has_settled: bool) -> bool:
        """Whether another window is to begin. A trial is judged at the end of a cycle, and others after a round that
        settled something: drafts are time spent for tokens to come."""
        if window.is_exploration:
            return has_settled and window.tokens >= (ENGINE_TOKENS if self._chosen else EXPLORATION_TOKENS)
        if window.bucket != self.beliefs.bucket:
            return True
        if not has_settled and not window.is_trial:
            return False
        tokens = self._usual_tokens()
        if window.is_trial:
            is_over = window.lost >= window.most_lost or self._has_failed(window)
            # Several sequences are never all between two cycles: what they have drafted is verified afterwards.
            is_cycle_over = not has_drafts or (window.bucket > 1 and window.tokens >= self.beliefs.num_live)
            is_spent = is_over and is_cycle_over
            # A trial that loses nothing goes on until it has shown what it is for.
            is_shown = (self._is_known(window.about) and self._is_timed(window.plan)) or window.tokens >= tokens
            return is_spent or (window.tokens >= PART_OF_A_TRIAL * tokens and is_shown)
        least = max(window.part * WINDOW_SECONDS, self._choosing_seconds / CHOOSING_SHARE)
        return window.tokens >= window.part * tokens and window.seconds >= least

    def _has_failed(self, window: Window) -> bool:
        """Whether a plan that was tried for its acceptances is slower than the fastest even if these, known by now, are
        as high as they may be. What several sequences try, they try for the clock."""
        is_for_acceptances = window.is_new and window.bucket == 1 and self._is_known(window.plan)
        return is_for_acceptances and self._hoped_speed(window.plan) < window.baseline

    def _usual_tokens(self) -> int:
        return WINDOW_TOKENS + WINDOW_TOKENS_A_SEQUENCE * self.beliefs.num_live

    def _next(self) -> Window:
        """The first plan where no forward pass was measured; else a plan that is worth a trial, or the fastest."""
        bucket = self.beliefs.bucket
        if not self._chosen and not self._has_costs():
            return Window(self.first, bucket, is_exploration=True)
        if self._window is not None and self._chosen:
            self._learn(self._window)
        # What was chosen as it began with costs or a file, for one sequence, stands for the first window.
        if self._window is not None or not self._num_choices or bucket > 1:
            self._choose()
        self._expect_acceptances()
        self._num_windows += self._window is not None
        speed = self.predictions[self._chosen]
        if speed <= 0 and self._explorations:
            # Passes take no time that the clock shows: nothing is lost by drafting.
            drafted = self._explorations[self._num_windows % len(self._explorations)]
            return Window(drafted, bucket, about=drafted)
        if self._is_first_due():
            return Window(self.first, bucket)
        own_speed = speed / self.beliefs.num_live
        tried = self._worth_a_trial() if speed > 0 and self._budget.allows_a_trial(own_speed) else self._chosen
        # What is given at the start is for what cannot be predicted; how close plans are can wait. So can plans of
        # which nothing is known, where several sequences would try them: shadows tell what they are good for.
        is_new = not (self._is_known(tried) and self._is_timed(tried))
        at_start = is_new and (bucket == 1 or self._is_known(tried))
        if tried != self._chosen and self._budget.allows_a_trial(own_speed, at_start=at_start):
            return self._measuring(tried, speed, self._budget.left(own_speed), is_new=is_new)
        return Window(self._chosen, bucket, min(1.0, (1 + self._num_windows) / NUM_SHORT))

    def _measuring(self, plan: str, baseline: float, most_lost: float, *, is_new: bool) -> Window:
        """A window to measure what this plan's prediction lacks: a trial of it, or of the first plan where that shows
        it; before the engine's own time is known, of the one that is held to be the fastest. See `Window`."""
        bucket, tried = self.beliefs.bucket, plan
        if not self.beliefs.knows_the_engine:
            tried = self._chosen
        elif self._is_shown_by_first(plan):
            tried, is_new = self.first, False
        if tried == self._chosen:
            return Window(tried, bucket, is_exploration=self._num_settled < NUM_COMPARED_ALWAYS, about=plan)
        trial = Window(tried, bucket, baseline=baseline, most_lost=most_lost, is_new=is_new, about=plan)
        self._budget.begin(trial)
        return trial

    def _is_shown_by_first(self, plan: str) -> bool:
        """Whether what this plan's prediction lacks are acceptances of members alone. The first plan feeds all members
        at each position, so that it shows these as well, and loses less."""
        by_members = all(pair.proposer < self.beliefs.num_members for pair in self._pairs[plan])
        return by_members and not self._is_known(plan)

    def _is_first_due(self) -> bool:
        """Whether several sequences run a plan that may be slower than the first, which was never timed at their
        number."""
        is_close = CLOSE * self.predictions[self.first] >= self.predictions[self._chosen]
        return is_close and self._chosen != self.first and not self._is_timed(self.first)

    def _has_costs(self) -> bool:
        """Whether a pass of each member was measured."""
        beliefs = self.beliefs
        return all(beliefs.costs.is_known(beliefs.server(i)) for i in range(beliefs.num_members))

    def _worth_a_trial(self) -> str:
        """A drafter's plan now and then; else the plan that is the fastest if it is as good as it may be, which may be
        the one that is chosen; before one that is known, and before any where several sequences run, the first plan
        where it is close and was never timed at this batch size."""
        drafters, first = self._explorations, self.first
        if drafters and self._num_windows and self._num_windows % WINDOWS_AN_EXPLORATION == 0:
            return drafters[self._num_windows // WINDOWS_AN_EXPLORATION % len(drafters)]
        chosen = self.predictions[self._chosen]
        hoped = self._hoped_for(self._budget.least_worth(chosen, self.beliefs.num_live))
        if self.beliefs.bucket == 1 and not self._is_known(hoped):
            return hoped
        is_untimed = first != self._chosen and self.beliefs.num_windows(first) == 0
        is_close = self.beliefs.bucket > 1 or CLOSE * self.predictions[first] > chosen
        return first if is_untimed and is_close else hoped

    def _expect_acceptances(self) -> None:
        """Let plans of which no draft was verified yet begin at the acceptance that rows showed."""
        for plan, own in self._by_confidence.items():
            if own.has_begun or not self._is_known(plan):
                continue
            acceptance = self.plans[plan].expected_acceptance(self.beliefs)
            if acceptance is not None:
                own.expect(acceptance)
                self.plans[plan] = self.plans[plan].with_acceptances(own.values)

    def _learn_confidence(self, plan: str, tokens: Sequence[Token]) -> None:
        """What became of this plan's drafts, by their proposer's confidence."""
        own = self._by_confidence[plan]
        for token in tokens:
            if token.confidence is not None:
                own.add(token.confidence, is_accepted=token.replaced is None)
        if news := own.news():
            self.plans[plan] = self.plans[plan].with_acceptances(news)

    def _learn(self, window: Window) -> None:
        """Record the plan's speed against theory's once its windows have timed enough: a few tokens' speed is mostly
        luck."""
        key = (window.plan, window.bucket)
        timed = self._timed.setdefault(key, Window(*key))
        timed.tokens += window.tokens
        timed.seconds += window.seconds
        if window.bucket != self.beliefs.bucket:
            return
        if timed.tokens < self._usual_tokens() or timed.seconds < min(SECONDS_TIMED, WINDOW_SECONDS):
            return
        theory = self._theory(window.plan)
        if theory > 0 and timed.tokens > 0:
            self.beliefs.record_window(window.plan, theory, timed.tokens, timed.seconds)
        del self._timed[key]


def _draws_nothing(schedule: Schedule) -> bool:
    """Whether it drafts nothing and draws no members, so that no draw for an unsettled position is ever used under it:
    then it may be left in any round. What others have drawn, a lane that declined or a member that was not fed may
    tell, and they are left as a token is settled."""
    kind = type(schedule)
    return kind.proposer is Policy.proposer and kind.cells is Policy.cells


def _listens(schedule: Schedule) -> bool:
    """Whether it does anything in the events of passes and rounds."""
    kind = type(schedule)
    return kind.on_forward is not Policy.on_forward or kind.on_round is not Policy.on_round


def _each_once(running: Iterable[Running]) -> list[Schedule]:
    """The schedules that sequences run."""
    # By identity: to hash a schedule takes longer, and two that are equal are told apart by what they are told.
    return [*{id(own.schedule): own.schedule for own in running}.values()]

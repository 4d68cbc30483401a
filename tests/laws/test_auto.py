"""`auto` keeps the law of a text in which it changes plans, drafters that propose by the run among them.

What it measures and decides depends on the text, so each branch of the enumeration has a planner of its own, and
branches that come by the same text are not merged.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from unittest import mock

import pytest
from torch import Tensor

from cospec import Engine, SamplingParams, Schedule, toy
from cospec.core.sheet import Sheet
from cospec.core.tokens import Token
from cospec.runner import Feed
from cospec.schedule import Plan, Setting
from cospec.schedule.auto import Auto
from cospec.schedule.blocks import BlockDrafting
from cospec.schedule.cascade import Cascade
from cospec.schedule.mixture import DrawnMember
from cospec.schedule.registry import plans
from cospec.schedule.trials import Window
from cospec.testing import enumeration

from ..clock import Clock, use_clock
from .cases import BLENDS, TOKENS, Case
from .naive import Law
from .test_laws import ROUNDING, VERIFICATIONS

# So many tokens must a text have for a member that loses its turn to be noticed. They take seven times as long as
# three.
LOSING = 4
# So little that a text of four tokens has several windows, and that what is compared once is known.
SHORT = {
    "auto.EXPLORATION_TOKENS": 1,
    "auto.WINDOW_TOKENS": 1,
    "auto.WINDOW_TOKENS_A_SEQUENCE": 0,
    "auto.WINDOW_SECONDS": 0.0,
    "auto.FIRST_SHARE": 10.0,
    "shadows.TOKENS_BETWEEN": 1,
    # However little a text of four tokens can make up for.
    "trials.TrialBudget.least_worth": lambda *_: 0.0,
    "choice.NUM_KNOWN": 1,
    "choice.NUM_KNOWN_BY_SEVERAL": 1,
}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    use_clock(monkeypatch, "cospec.core.passes", "cospec.core.engine", "cospec.schedule.auto")


class Ticking(toy.FunctionRunner):
    """A member whose passes take a fixed time. Sums of such powers of two are exact, whatever was added before."""

    def feed(self, batch: Sequence[Feed]) -> list[Tensor]:
        Clock.now += 2**-8
        return super().feed(batch)


class Restless(Auto):
    """After each round it begins a window of the next plan, whatever was measured."""

    def _next(self) -> Window:
        self._num_windows += 1
        names = [*self.plans]
        return Window(names[self._num_windows % len(names)])

    def _is_over(self, window: Window, *, has_drafts: bool, has_settled: bool) -> bool:
        return True


class Impatient(Restless):
    """The same after rounds that settled nothing alone."""

    def _is_over(self, window: Window, *, has_drafts: bool, has_settled: bool) -> bool:
        return not has_settled


@dataclass(frozen=True, kw_only=True)
class Planned(Case):
    """planner: the kind of `auto` that plans the text, over all plans that can be had."""

    planner: type[Auto]

    def schedule_of(self, plan: Plan, setting: Setting) -> Schedule:
        return self.planner.of_plans(plans(setting, self.verification), setting, "auto")

    def law(self) -> Law:
        with planners_apart():
            return super().law()


@contextmanager
def planners_apart() -> Iterator[None]:
    """Whatever one branch's planner learns, no other knows."""
    twin, signature = enumeration._twin, enumeration._signature

    def apart(engine: Engine) -> Engine:
        made = twin(engine)
        before, now = (enumeration._sheet(each) for each in (engine, made))
        now.schedule = copy.deepcopy(before.schedule, {id(before): now})
        return made

    def own_signature(state: enumeration.State) -> tuple[object, ...]:
        return (*signature(state), id(state.engine))

    with (
        mock.patch.object(enumeration, "_twin", apart),
        mock.patch.object(enumeration, "_signature", own_signature),
        ExitStack() as constants,
    ):
        for name, value in SHORT.items():
            constants.enter_context(mock.patch(f"cospec.schedule.{name}", value))
        yield


@contextmanager
def watched_changes() -> Iterator[set[tuple[str, str]]]:
    """Of each settlement within it, the plan that the text had run, and the one that it runs from there on."""
    on_settled, changes = Auto.on_settled, set[tuple[str, str]]()

    def spy(self: Auto, sheet: Sheet, tokens: Sequence[Token]) -> None:
        before = self._running[sheet].window.plan
        on_settled(self, sheet, tokens)
        changes.add((before, self._running[sheet].window.plan))

    with mock.patch.object(Auto, "on_settled", spy):
        yield changes


def planned(blend: str, proposer: str, verification: str, planner: type[Auto], *, max_tokens: int = LOSING) -> Planned:
    params = SamplingParams(max_tokens=max_tokens)
    return Planned(
        blend=BLENDS[blend], schedule="auto", verification=verification, proposer=proposer, params=params,
        runner=Ticking, planner=planner,
    )  # fmt: skip


@pytest.mark.parametrize("verification", VERIFICATIONS)
@pytest.mark.parametrize("proposer", ["run drafter", "each, one of runs"])
def test_the_law_holds_over_what_auto_decides(proposer, verification):
    with watched_changes() as changes:
        assert planned("mixture", proposer, verification, Auto).distance() < ROUNDING
    assert any(" by " in plan for _, plan in changes)


def num_tokens(verification: str) -> int:
    return LOSING if verification == "token" else TOKENS


@pytest.mark.larger
@pytest.mark.parametrize("verification", VERIFICATIONS)
@pytest.mark.parametrize(
    ("blend", "proposer"), [("mixture", "run drafter"), ("plausible", "run drafter"), ("mixture", "each, one of runs")]
)
def test_it_holds_whatever_auto_decides(blend, proposer, verification):
    # One of the three has it all.
    max_tokens = num_tokens(verification) if (blend, proposer) == ("mixture", "run drafter") else 3
    with watched_changes() as changes:
        assert planned(blend, proposer, verification, Restless, max_tokens=max_tokens).distance() < ROUNDING
    assert len({plan for change in changes for plan in change}) > 2


@contextmanager
def catching_up() -> Iterator[Planned]:
    """A text whose lagging members are fed alone, for its log-probabilities, in rounds that may settle nothing: the
    member that is drawn for the position is among them, or it is not."""
    own = planned("mixture", "drafter", "token", Impatient)
    with mock.patch("cospec.core.feeding.MOST_UNSCORED", 1):
        yield replace(own, proposer=None, params=SamplingParams(max_tokens=3, logprobs=1))


def test_it_holds_where_members_catch_up_in_rounds_of_their_own() -> None:
    with catching_up() as own:
        assert own.distance() < ROUNDING


def test_it_does_not_if_a_plan_that_draws_members_is_left_in_such_a_round() -> None:
    with catching_up() as own, mock.patch("cospec.schedule.auto._draws_nothing", return_value=True):
        assert own.distance() > 0.001


@contextmanager
def finishing() -> Iterator[None]:
    """Sequences go on to the end of what they have begun."""
    with (
        mock.patch.object(BlockDrafting, "winding_down", lambda self: self),
        mock.patch.object(Cascade, "winding_down", lambda self: self),
    ):
        yield


@pytest.mark.larger
@pytest.mark.parametrize("verification", VERIFICATIONS)
def test_it_holds_where_sequences_finish_what_they_have_begun(verification):
    own = planned("mixture", "run drafter", verification, Restless, max_tokens=num_tokens(verification))
    with finishing():
        assert own.distance() < ROUNDING


@dataclass(frozen=True, kw_only=True)
class WoundDown(Case):
    """A sequence that is to leave its schedule from the start on, and has none to go over to."""

    def schedule_of(self, plan: Plan, setting: Setting) -> Schedule:
        return super().schedule_of(plan, setting).winding_down()


@pytest.mark.parametrize("verification", ["token", "block"])
@pytest.mark.parametrize(
    ("schedule", "gamma"), [("fixed", 2), ("cascade", (2, 2)), ("mixture", 2), ("mixture", None), ("alternate", None)]
)
def test_a_text_goes_on_under_a_schedule_that_is_wound_down(schedule, gamma, verification):
    proposer = None if gamma is None else "drafter"
    own = WoundDown(
        blend=BLENDS["mixture"],
        schedule=schedule,
        gamma=gamma,
        proposer=proposer,
        verification=verification,
        params=SamplingParams(max_tokens=3),
    )
    assert own.distance() < ROUNDING


def test_it_does_not_if_a_member_that_was_drawn_loses_its_turn():
    with finishing(), mock.patch.object(DrawnMember, "may_be_left", return_value=True):
        assert planned("mixture", "run drafter", "token", Restless).distance() > 0.001

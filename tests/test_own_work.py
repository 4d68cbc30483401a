"""What `auto` does of its own each round: no more than a stated share of the time, by a clock that the tests move."""

import math
from collections import Counter

import pytest

from cospec import Ensemble, Mixture, SamplingParams, toy
from cospec.members import Member
from cospec.schedule import auto, beliefs, choice, costs
from cospec.schedule.auto import Auto
from cospec.schedule.beliefs import Beliefs
from cospec.schedule.costs import Costs
from cospec.schedule.drafting import AcceptanceByConfidence
from cospec.schedule.shadows import ROUNDS_BETWEEN_LOOKS, Shadows
from cospec.schedule.trials import FIRST_TOKENS, SHARE, TrialBudget

from .clock import Clock, use_clock

ROW = [0.5, 0.2, 0.1, 0.1, 0.05, 0.05]
HOPELESS = [0.001, 0.001, 0.001, 0.001, 0.001, 0.995]
SECONDS_A_PASS = 0.004


class Slow(toy.FunctionRunner):
    """A model whose passes take a while, and as long again for each token more."""

    def __init__(self, probs=ROW):
        logits = [math.log(p) for p in probs]
        super().__init__(len(probs), lambda prefix: logits)

    def feed(self, batch):
        Clock.now += SECONDS_A_PASS * sum(len(feed.tokens) for feed in batch)
        return super().feed(batch)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    use_clock(monkeypatch, "cospec.core.passes", "cospec.core.engine", "cospec.schedule.auto")


def taking(monkeypatch, owner, name, seconds):
    """Let a method take so long; a list of the times at which it was called."""
    called, method = [], getattr(owner, name)

    def timed(*args, **kwargs):
        called.append(Clock.now)
        Clock.now += seconds
        return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, timed)
    return called


def decode(length, num_members=2, num_texts=1):
    """`auto` decodes so many tokens, of which no draft pays; its planner."""
    named = [Member(model=Slow(), name=name) for name in "abc"[:num_members]]
    ensemble = Ensemble(named, Mixture([1 / num_members] * num_members), schedule="auto")
    params = SamplingParams(max_tokens=length, ignore_eos=True)
    ensemble.generate([[0]] * num_texts, params)
    return ensemble.planner_for(params)


def everything_is_worth_comparing(monkeypatch):
    monkeypatch.setattr(Auto, "_worth_comparing", lambda planner: None)


@pytest.mark.parametrize("num_texts", [1, 4])
def test_choosing_a_plan_takes_a_stated_part_of_the_time(monkeypatch, num_texts):
    """Windows are as long as it takes: hundreds of tokens, where a choice takes as long as a dozen."""
    chosen = taking(monkeypatch, Auto, "_choose", seconds := 0.1)
    decode(600, num_texts=num_texts)
    # A trial is paid for with its choice, and each is followed by another choice.
    share, at_start = auto.CHOOSING_SHARE + 2 * SHARE, 5 + 2 * FIRST_TOKENS * 2 * SECONDS_A_PASS / seconds
    assert 0 < len(chosen) < share * Clock.now / seconds + at_start


def test_comparing_rows_takes_a_stated_part_of_the_time(monkeypatch):
    everything_is_worth_comparing(monkeypatch)
    compared = taking(monkeypatch, Beliefs, "compare", seconds := 0.004)
    decode(1500)
    assert len(compared) > auto.NUM_COMPARED_ALWAYS
    late = [at for at in compared if at > Clock.now / 2]
    assert 0 < len(late) <= auto.COMPARING_SHARE * Clock.now / seconds


def test_rows_are_compared_as_often_where_that_takes_no_time(monkeypatch):
    everything_is_worth_comparing(monkeypatch)
    compared = taking(monkeypatch, Beliefs, "compare", 0.0)
    decode(800)
    assert len(compared) >= 700 / auto.COMPARE_ONE_IN


def test_what_is_worth_comparing_is_not_found_anew_at_each_choice(monkeypatch):
    chosen, worth = (taking(monkeypatch, choice.Choice, name, 0.0) for name in ("_choose", "_worth_comparing"))
    decode(3000)
    assert len(chosen) > 20
    assert len(worth) < len(chosen) / 2


def test_a_round_without_drafters_looks_for_none():
    class Sheets(list):
        looked = 0

        def __iter__(self):
            Sheets.looked += 1
            return super().__iter__()

    shadows, sheets = Shadows(Beliefs(Mixture([1.0]), 1, SamplingParams())), Sheets()
    for _ in range(10 * ROUNDS_BETWEEN_LOOKS):
        shadows.on_round(sheets, SECONDS_A_PASS, has_new=False)
    assert 0 < Sheets.looked <= 10


def test_a_pass_of_a_size_that_is_known_makes_no_cell(monkeypatch):
    made, kind = Counter(), costs._Cell

    def cell():
        made["cells"] += 1
        return kind()

    monkeypatch.setattr(costs, "_Cell", cell)
    measured = Costs()
    for _ in range(50):
        measured.add(0, 1, 1.0)
        measured.add(0, 2, 1.5)
    assert made["cells"] == 2
    assert measured.seconds(0, 2) == pytest.approx(1.5)


def test_a_pass_of_a_size_that_is_known_well_is_recorded_now_and_then():
    measured = Costs()
    for _ in range(costs.NUM_WELL_KNOWN):
        measured.add(0, 1, 1.0)
    assert measured.state()[0][-1] == (1.0, costs.NUM_WELL_KNOWN)
    for _ in range(5 * costs.RECORD_ONE_IN):
        measured.add(0, 1, 2.0)
    value, count = measured.state()[0][-1]
    assert count == costs.NUM_WELL_KNOWN + 5
    assert value > 1.6


def test_nothing_is_compared_where_no_comparison_would_change_a_plan(monkeypatch):
    monkeypatch.setattr(Auto, "_worth_comparing", lambda planner: set())
    compared = taking(monkeypatch, Beliefs, "compare", 0.0)
    decode(100)
    # Before the first choice nothing says so: of the prompt's token, and of those that are measured.
    assert len(compared) <= 1 + auto.EXPLORATION_TOKENS


def test_two_members_that_draft_for_each_other_are_compared_once(monkeypatch):
    compared = taking(monkeypatch, beliefs, "_overlaps", 0.0)
    planner = decode(1)
    assert planner.beliefs.num_compared(beliefs.Pair(0, 1)) == planner.beliefs.num_compared(beliefs.Pair(1, 0)) == 1
    # Each member with the other, and with r.
    assert len(compared) == 3


def test_verdicts_are_told_the_less_often_the_more_there_were():
    measured, told, last = AcceptanceByConfidence(), 0, None
    for number in range(1000):
        measured.add((number % 10) / 10, is_accepted=number % 10 > 3)
        news = measured.news()
        told, last = told + (news is not None), news or last
        assert last is not None
        assert max(abs(now - then) for now, then in zip(measured.values, last, strict=True)) < 0.12
    assert 20 < told < 250


def test_confidence_is_read_where_a_schedule_that_runs_reads_it(monkeypatch):
    """Members that take turns read none; a drafter that is paced does."""
    planner = Ensemble([Slow(), Slow()], proposer=Slow(), schedule="auto").planner_for(SamplingParams())
    answers = {}
    for plan, schedule in planner.plans.items():
        planner._running = {object(): auto.Running(auto.Window(plan), schedule)}
        answers[plan] = planner.reads_confidence
    assert not answers["alternate for member"]
    assert answers["fixed auto by member"]
    assert answers == {plan: schedule.reads_confidence for plan, schedule in planner.plans.items()}


def test_a_trial_that_cannot_make_up_for_itself_is_not_begun():
    """100 tokens a second, of which the time of six may be lost."""
    budget = TrialBudget(num_expected=100)
    assert budget.least_worth(100.0, num_live=1) == pytest.approx(100 / 0.94)
    budget.num_expected = 1000
    assert budget.least_worth(100.0, num_live=1) == pytest.approx(100 / 0.994)
    budget.num_expected = 4
    assert budget.least_worth(100.0, num_live=1) == math.inf


def test_tokens_that_are_expected_are_those_that_may_follow_and_those_that_were_decoded():
    planner = decode(40, num_texts=3)
    assert planner._budget.num_expected == 120
    ensemble = Ensemble([Slow(), Slow()], schedule="auto")
    ends_at_once = SamplingParams(max_tokens=500, stop_token_ids=[*range(len(ROW))])
    ensemble.generate([[0]], ends_at_once)
    assert ensemble.planner_for(ends_at_once)._budget.num_expected == 1

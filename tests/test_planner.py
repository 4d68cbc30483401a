"""`auto` finds the plan that its measurements say is the fastest, and leaves what does not pay."""

import json
import math
from dataclasses import replace

import pytest

from cospec import Contrastive, Ensemble, Mixture, SamplingParams, Schedule, toy
from cospec.core.counts import Average
from cospec.core.policy import Round
from cospec.core.tokens import Draft
from cospec.errors import InvalidEnsemble, InvalidPrompt
from cospec.members import Member
from cospec.schedule import Plan
from cospec.schedule.auto import ENGINE_TOKENS, Auto, Window
from cospec.schedule.beliefs import PART_OF_A_POSITION, PART_OF_DRAFTING, Beliefs, Pair
from cospec.schedule.choice import NUM_KNOWN
from cospec.schedule.costs import DECIDING, DRAFTING, Costs
from cospec.schedule.drafting import MOST_DRAFTED, PRIOR, StopRule
from cospec.schedule.trials import TrialBudget
from cospec.study.tune import Tuning, tune, write_plan

from .clock import Clock, EngineTime, use_clock
from .toys import table

VOCAB = 6
LIKE_A = [0.5, 0.2, 0.1, 0.1, 0.05, 0.05]
HOPELESS = [0.001, 0.001, 0.001, 0.001, 0.001, 0.995]


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    use_clock(monkeypatch, "cospec.core.passes", "cospec.core.engine", "cospec.schedule.auto", "cospec.study.tune")


class Slow(toy.FunctionRunner):
    """A model whose calls take so many seconds, and a bit more for each token."""

    def __init__(self, probs, call, token=0.0):
        logits = [math.log(p) for p in probs]
        super().__init__(VOCAB, lambda prefix: logits)
        self._call, self._token = call, token

    def feed(self, batch):
        Clock.now += self._call + self._token * sum(len(feed.tokens) for feed in batch)
        return super().feed(batch)


class Changing(Slow):
    """Of no use at first; later, for a while, it writes as the members do."""

    def __init__(self, call):
        super().__init__(HOPELESS, call)
        self._fn = lambda prefix: [math.log(p) for p in (HOPELESS if len(prefix) < 600 else LIKE_A)]


def learned(members, drafter, length=300, **params):
    """The planner after some texts."""
    named = [Member(model=runner, name=name) for name, runner in members.items()]
    ensemble = Ensemble(named, proposer=drafter, schedule="auto")
    given = SamplingParams(max_tokens=length, **params)
    results = ensemble.generate([[0]], given)
    return ensemble.planner_for(given), results


def test_a_good_cheap_drafter_is_used():
    members = {"a": Slow(LIKE_A, 0.004), "b": Slow(LIKE_A, 0.004)}
    planner, (result,) = learned(members, Slow(LIKE_A, 0.0001))
    assert "by member" in planner.chosen
    assert result.schedule == "auto"
    assert result.plan == planner.chosen
    assert result.drafters["member"].calls > 0
    assert result.members["a"].calls < 150


def test_each_member_is_given_the_drafter_that_it_accepts_the_most():
    # In the wrong order, and so unlike each other that a drafter is of no use for the other's member.
    members = {"a": Slow(LIKE_A, 0.004), "b": Slow(HOPELESS, 0.004)}
    drafters = [Slow(HOPELESS, 0.0001), Slow(LIKE_A, 0.0001)]
    planner, (result,) = learned(members, drafters, ignore_eos=True)
    assert planner.chosen == "mixture auto by each"
    assert planner.plans[planner.chosen].drafters == (3, 2)
    for stats in result.proposers.values():
        assert stats.accepted > 0.8 * stats.proposed


def test_a_drafter_that_takes_its_time_must_be_worth_it():
    """Accepted a little more often, it costs as much as a member."""
    close = [0.45, 0.25, 0.1, 0.1, 0.05, 0.05]
    members = {"a": Slow(LIKE_A, 0.004), "b": Slow(LIKE_A, 0.004)}
    planner, _ = learned(members, [Slow(LIKE_A, 0.002), Slow(close, 0.0001)])
    assert planner.plans["mixture auto by each"].drafters == (3, 3)


def test_a_hopeless_drafter_is_left():
    members = {"a": Slow(LIKE_A, 0.002, 0.001)}
    planner, (result,) = learned(members, Slow(HOPELESS, 0.002))
    assert planner.chosen == "plain"
    assert result.drafters["member"].calls < 80


def told(acceptance, row, num_members, length):
    """The planner after a text of members that write like A, and a drafter of this row, which costs a quarter of them,
    as calibration knows, and says that so much of it is accepted; and what the text cost."""
    runners = [*(Slow(LIKE_A, 0.004) for _ in range(num_members)), Slow(row, 0.001)]
    runners[-1].acceptance = acceptance
    drafter = Member(model=runners[-1], name="drafter")
    members = [Member(model=runner, name=name) for runner, name in zip(runners[:-1], "ab", strict=False)]
    ensemble = Ensemble(members, proposer=drafter, schedule="auto")
    params = SamplingParams(max_tokens=length)
    costs = Costs()
    for lane, seconds in enumerate([0.004] * num_members + [0.001]):
        for size in (1, 17):
            costs.put(lane, size, seconds, count=5)
    planner = ensemble.planner_for(params)
    planner.begin_with_costs(costs.state())
    (result,) = ensemble.generate([[0]], params)
    return planner, result.counts


@pytest.mark.parametrize("num_members", [1, 2])
def test_a_drafter_that_says_that_it_is_hopeless_is_not_tried(num_members):
    _, counts = told(0.02, HOPELESS, num_members, length=40)
    assert "drafter" not in counts.proposers
    _, counts = told(None, HOPELESS, num_members, length=40)
    assert counts.proposers["drafter"].drafted > 0


@pytest.mark.parametrize("num_members", [1, 2])
def test_a_drafter_that_says_that_it_is_good_drafts_from_the_start(num_members):
    planner, counts = told(0.98, LIKE_A, num_members, length=40)
    assert counts.proposers["drafter"].accepted > 20
    assert planner._budget.lost == 0


@pytest.mark.parametrize(("said", "row", "is_used"), [(0.98, HOPELESS, False), (0.3, LIKE_A, True)])
def test_what_a_drafter_says_of_itself_is_measured_again(said, row, is_used):
    planner, _ = told(said, row, num_members=1, length=1500)
    assert ("by drafter" in planner.chosen) == is_used


def windows_of(monkeypatch):
    """All windows that planners begin from now on."""
    begun, choose = [], Auto._next

    def following(planner):
        begun.append(choose(planner))
        return begun[-1]

    monkeypatch.setattr(Auto, "_next", following)
    return begun


def test_nothing_is_tried_before_the_engines_own_time_is_known(monkeypatch):
    """Calibration knows what passes cost, without which nothing would be tried: a few tokens, and the drafter is."""
    windows = windows_of(monkeypatch)
    told(None, LIKE_A, num_members=2, length=40)
    first, second = windows[:2]
    assert not first.is_trial
    assert first.is_exploration
    assert ENGINE_TOKENS <= first.tokens < 2 * ENGINE_TOKENS
    assert second.is_trial
    assert second.plan == second.about == first.about


def test_what_members_accept_of_each_other_is_measured_under_the_first_plan(monkeypatch):
    """A drafter's acceptance shows where it drafts; members have a row at each position under `plain`."""
    planner, _ = told(None, LIKE_A, num_members=2, length=40)
    planner._budget = TrialBudget(num_expected=1000)
    known = dict(planner.beliefs.acceptances)
    planner.beliefs.acceptances.clear()
    for tried, plan in (("fixed auto by drafter", "fixed auto by drafter"), ("fixed auto by a", "plain")):
        monkeypatch.setattr(planner, "_worth_a_trial", lambda tried=tried: tried)
        window = planner._next()
        assert (window.plan, window.about, window.is_trial) == (plan, tried, True)
        planner._budget = TrialBudget(num_expected=1000)
    # Rows are compared until they have shown what the trial is for, however long that takes.
    planner._compared, planner._compared_seconds, planner._num_settled = None, math.inf, 1001
    assert planner._is_to_be_compared(window)
    planner.beliefs.acceptances.update(known | {Pair(0, None): Average(0.1, 1.0, NUM_KNOWN)})
    assert not planner._is_to_be_compared(window)
    assert not planner._is_shown_by_first("fixed auto by a")


@pytest.mark.parametrize("is_known", [False, True])
def test_a_first_plan_that_is_close_does_not_keep_one_that_is_unknown_waiting(monkeypatch, is_known):
    """What the first plan would show can wait: it is known what that is good for, but for the clock."""
    planner, _ = told(None, LIKE_A, num_members=2, length=40)
    unknown, chosen = "fixed auto by drafter", "alternate for a"
    planner._chosen, planner.predictions = chosen, dict.fromkeys(planner.plans, 50.0)
    monkeypatch.setattr(planner.beliefs, "num_windows", lambda plan: 0)
    monkeypatch.setattr(planner, "_hoped_for", lambda least: unknown)
    monkeypatch.setattr(planner, "_is_known", lambda plan: is_known or plan != unknown)
    assert planner._worth_a_trial() == (planner.first if is_known else unknown)


def test_all_rows_are_worth_comparing_until_the_engines_own_time_is_known():
    planner, _ = told(None, LIKE_A, num_members=2, length=1)
    assert planner._worth_comparing() is None
    planner, _ = told(None, LIKE_A, num_members=2, length=40)
    assert planner._worth_comparing() is not None


def test_what_the_engine_takes_is_a_part_of_a_round_that_decides_one_until_it_is_measured():
    beliefs = Beliefs(Mixture([1.0]), 1, SamplingParams())
    assert beliefs.engine_seconds(0) == 0
    beliefs.costs.add(DECIDING, 1, 0.004)
    assert beliefs.engine_seconds(0) == pytest.approx(PART_OF_DRAFTING * 0.004)
    assert beliefs.engine_seconds(5) == pytest.approx((1 + 4 * PART_OF_A_POSITION) * 0.004)
    beliefs.costs.add(DECIDING, 5, 0.005)
    assert beliefs.engine_seconds(5) == pytest.approx(0.005)
    assert beliefs.engine_seconds(1) == pytest.approx(0.004)
    beliefs.costs.add(DRAFTING, 1, 0.003)
    assert beliefs.engine_seconds(0) == pytest.approx(0.003)


# Rounds that decide a position take seven times as long as others.
ENGINE = EngineTime(0.0005, 0.003, 0.0001)


def contrastive(monkeypatch):
    """Two members of a combination that the first is close to, in an engine that takes time of its own."""
    ENGINE.use(monkeypatch)
    rows = {"a": LIKE_A, "b": [0.5, 0.25, 0.05, 0.1, 0.05, 0.05]}
    members = [Member(model=Slow(row, 0.001), name=name) for name, row in rows.items()]
    return Ensemble(members, Contrastive(mu=0.1), schedule="auto")


def test_what_the_engine_takes_of_its_own_is_told_apart_by_what_rounds_decide(monkeypatch):
    """Drafts cost little where their rounds do, however much the rounds take that verify them: a mean over all rounds
    would have members take turns here, at half the speed."""
    ensemble, params = contrastive(monkeypatch), SamplingParams(max_tokens=400)

    def seconds(of):
        started = Clock.now
        of.generate([[0]], params)
        return Clock.now - started

    taken, planner = seconds(ensemble), ensemble.planner_for(params)
    assert planner.chosen == "fixed auto by a"
    assert taken < 1.15 * seconds(ensemble.with_plan(schedule="fixed", gamma=8, proposer="a"))
    assert taken < 0.7 * seconds(ensemble.with_plan(schedule="alternate"))
    for num_decided in (0, 2, 9, 17):
        assert planner.beliefs.engine_seconds(num_decided) == pytest.approx(ENGINE.seconds(num_decided), rel=0.02)


def test_what_the_engine_takes_of_its_own_is_known_to_later_processes(monkeypatch):
    ensemble, params = contrastive(monkeypatch), SamplingParams(max_tokens=100)
    ensemble.generate([[0]], params)
    state = json.loads(json.dumps(ensemble.planner_for(params).state()))
    other = contrastive(monkeypatch).planner_for(params)
    assert other.beliefs.engine_seconds(9) == 0
    other.begin_with(state)
    assert other.beliefs.engine_seconds(9) == pytest.approx(ENGINE.seconds(9), rel=0.1)


def test_the_engines_own_time_is_shared_by_sequences_that_decide_at_once():
    """A round of eight takes less than eight rounds of one."""
    beliefs = Beliefs(Mixture([1.0]), 1, SamplingParams())
    for num_live in (1, 8):
        for num_decided in (0, num_live, 5 * num_live):
            seconds = ENGINE.seconds(num_decided)
            done = replace(round_of(num_live), num_moved=num_live, num_decided=num_decided, has_prefill=False)
            beliefs.record_round(replace(done, seconds=1 + seconds, seconds_in_models=0.25), learning_seconds=0.75)
    assert beliefs.num_live == 8
    for num_decided in (0, 1, 5):
        assert beliefs.engine_seconds(num_decided) == pytest.approx(ENGINE.seconds(8 * num_decided) / 8)


def test_where_every_token_costs_the_same_nothing_is_drafted():
    members = {"a": Slow(LIKE_A, 0.0, 0.002), "b": Slow(HOPELESS, 0.0, 0.002)}
    planner, _ = learned(members, Slow(HOPELESS, 0.002), temperature=0)
    assert planner.chosen == "plain"


def test_with_a_seed_the_text_does_not_depend_on_what_was_measured():
    members = {"a": Slow(LIKE_A, 0.0), "b": Slow(HOPELESS, 0.0)}
    planner, (result,) = learned(members, None, length=20, seed=3)
    assert planner is None
    assert (result.schedule, result.plan) == ("auto", "mixture")


@pytest.mark.parametrize(("verification", "temperature"), [("coupled", 1), ("block", 0)])
def test_a_text_that_no_plan_changes_may_be_planned_with_a_seed(verification, temperature):
    ensemble = Ensemble([Slow(LIKE_A, 0.0), Slow(HOPELESS, 0.0)], schedule="auto", verification=verification)
    params = SamplingParams(max_tokens=60, seed=3, temperature=temperature)
    assert ensemble.planner_for(params) is not None
    (auto,) = ensemble.generate([[0]], params)
    (plain,) = ensemble.with_plan(schedule="plain").generate([[0]], params)
    assert auto.token_ids == plain.token_ids


def test_what_is_learned_under_one_sampling_is_not_taken_for_another():
    ensemble = Ensemble([Slow(LIKE_A, 0.0), Slow(HOPELESS, 0.0)], Mixture([0.7, 0.3]), schedule="auto")
    penalised, greedy, narrow = (
        ensemble.planner_for(SamplingParams(temperature=0, **params))
        for params in ({"repetition_penalty": 1.2}, {}, {"top_k": 1})
    )
    assert len({id(each) for each in (penalised, greedy, narrow)}) == 3
    # Where the argmax is all that counts, the heavier member may settle it alone.
    are_lazy = [
        any(getattr(each, "is_lazy", False) for each in planner.plans.values()) for planner in (penalised, greedy)
    ]
    assert are_lazy == [False, True]


def test_rows_are_compared_as_they_are_drawn_from():
    """Under top-k 1 nothing but the first token counts, and there the two agree."""
    members = {"a": Slow([0.6, 0.2, 0.05, 0.05, 0.05, 0.05], 0.004), "b": Slow([0.4, 0.2, 0.1, 0.1, 0.1, 0.1], 0.004)}
    planner, _ = learned(members, None, top_k=1)
    assert planner.beliefs.acceptance(0, 1) == pytest.approx(1)
    planner, _ = learned(members, None)
    assert planner.beliefs.acceptance(0, 1) == pytest.approx(0.8)


def test_costs_are_read_between_what_was_measured():
    costs = Costs()
    costs.add(0, 1, 1.0)
    costs.add(0, 5, 3.0)
    assert costs.seconds(0, 3) == pytest.approx(2.0)
    assert costs.seconds(0, 1) == pytest.approx(1.0)
    assert costs.seconds(0, 0.5) == pytest.approx(1.0)
    assert costs.seconds(0, 9) == pytest.approx(5.0)
    assert costs.seconds(1, 1) == 0.0


def test_large_calls_are_told_apart_by_their_size_roughly():
    costs = Costs()
    for num_tokens in (16, 17, 32, 33, 1000, 1010):
        costs.add(0, num_tokens, float(num_tokens))
    for num_tokens in (16, 20, 40, 500, 1005, 2000):
        assert costs.seconds(0, num_tokens) == pytest.approx(num_tokens)


def test_a_stall_counts_as_three_calls_at_most():
    costs = Costs()
    for _ in range(10):
        costs.add(0, 1, 1.0)
    costs.add(0, 1, 1000.0)
    assert costs.seconds(0, 1) < 1.5


def test_an_average_forgets():
    average = Average(0.5)
    for value in (0.0, 0.0, 8.0):
        average.add(value)
    assert average.value == pytest.approx(4.0)


def test_tuning_compares_what_it_predicts_with_the_clock():
    ensemble = Ensemble([Slow(LIKE_A, 0.002), Slow(LIKE_A, 0.002)], proposer=Slow(LIKE_A, 0.0001))
    leaders = []
    tuning = tune(ensemble, [[0], [1]], SamplingParams(max_tokens=60), on_text=leaders.append)
    plain, best = tuning.comparisons
    assert plain.plan.schedule == "plain"
    assert best.plan == tuning.plan
    assert best.measured > 1.3 * plain.measured
    assert 0.5 < best.predicted / best.measured < 2
    assert len(leaders) == tuning.num_texts
    assert tuning.acceptances["member-2 for r"] == pytest.approx(1.0, abs=0.01)


def test_a_drafter_is_tried_again_once_texts_have_changed(monkeypatch):
    monkeypatch.setattr("cospec.schedule.auto.WINDOWS_AN_EXPLORATION", 10)
    # By what it is heard to say it would be found as well.
    monkeypatch.setattr("cospec.schedule.shadows.SHARE", 0)
    members = {"a": Slow(LIKE_A, 0.004), "b": Slow(LIKE_A, 0.004)}
    planner, _ = learned(members, Changing(0.0001), length=500, temperature=0)
    assert "by member" not in planner.chosen
    planner, _ = learned(members, Changing(0.0001), length=1500, temperature=0)
    assert "by member" in planner.chosen


def test_a_drafter_that_drafts_nothing_is_heard(monkeypatch):
    """It is never tried again, and used all the same once its rows have come to agree with what is settled."""
    monkeypatch.setattr("cospec.schedule.auto.WINDOWS_AN_EXPLORATION", 10**9)
    members = {"a": Slow(LIKE_A, 0.004), "b": Slow(LIKE_A, 0.004)}
    planner, _ = learned(members, Changing(0.0001), length=500, temperature=0)
    assert "by member" not in planner.chosen
    planner, _ = learned(members, Changing(0.0001), length=1800, temperature=0)
    assert planner.beliefs.acceptance(2, None) > 0.8
    assert "by member" in planner.chosen


def test_hearing_takes_a_hundredth_of_the_time_at_most():
    planner, _ = learned({"a": Slow(LIKE_A, 0.004)}, Slow(HOPELESS, 0.002), length=1500)
    assert planner.chosen == "plain"
    assert 10 < sum(planner.shadowing.num_heard.values()) <= 0.01 * Clock.now / 0.002


def test_texts_that_end_at_once_teach_nothing():
    with pytest.raises(InvalidPrompt, match="before a plan could be timed"):
        tune(Ensemble([Slow(LIKE_A, 0.002)] * 2), [[0]], SamplingParams(max_tokens=1), on_text=lambda plan: None)


def test_there_must_be_something_to_tune_on():
    with pytest.raises(InvalidPrompt):
        tune(Ensemble([Slow(LIKE_A, 0.0)]), [], SamplingParams(), on_text=print)


def won(plan, drafters=()):
    return Tuning(plan=plan, drafters=drafters, comparisons=(), acceptances={}, num_texts=1)


def test_the_drafter_of_each_member_is_written_into_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("members: [demo:math, demo:code]\ncombine: mixture\n")
    members = {"a": Slow(LIKE_A, 0.004), "b": Slow(HOPELESS, 0.004)}
    ensemble = Ensemble(
        [Member(model=runner, name=name) for name, runner in members.items()],
        proposer=[Slow(HOPELESS, 0.0001), Slow(LIKE_A, 0.0001)],
    )
    tuning = tune(ensemble, [[0]], SamplingParams(max_tokens=60, ignore_eos=True), on_text=lambda plan: None)
    assert tuning.drafters == ("member-2", "member")
    write_plan(tuning, path, path, {"member": "demo:drafter", "member-2": "demo:amateur"})
    again = Ensemble.load(path)
    assert str(again.plan) == "mixture auto by each"
    assert again.drafter_names == ("amateur", "drafter")


def test_a_plan_is_written_into_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("# ours\nmembers:\n  - model: demo:math\nschedule: plain\ngamma: 3\ncombine: mixture\n")
    plan = Plan(schedule="cascade", gamma=(4, 8), proposer="drafter", first="math")
    write_plan(won(plan), path, path, {"drafter": "demo:drafter"})
    assert path.read_text() == (
        "# ours\nmembers:\n  - model: demo:math\ncombine: mixture\n"
        "schedule: cascade\ngamma: [4, 8]\nproposer: demo:drafter\nfirst: math\nverification: block\n"
    )


@pytest.mark.parametrize(
    ("plan", "lines"),
    [
        (Plan(schedule="plain"), "schedule: plain\nverification: block\n"),
        (
            Plan(schedule="mixture", gamma=5, proposer="drafter"),
            "schedule: mixture\ngamma: 5\nproposer: 'a folder: of mine'\nverification: block\n",
        ),
    ],
    ids=str,
)
def test_settings_are_written_a_line_each(plan, lines, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("members: [demo:math]\n")
    write_plan(won(plan), path, path, {"drafter": "a folder: of mine"})
    assert path.read_text() == "members: [demo:math]\n" + lines


def test_a_setting_of_several_lines_is_not_replaced(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("members: [demo:math]\ngamma:\n  - 1\n  - 2\n")
    with pytest.raises(InvalidEnsemble, match="gamma"):
        write_plan(won(Plan(schedule="plain")), path, path, {})


def test_a_block_that_stood_whole_counts_for_its_drafter():
    """At temperature 0 with a drafter that is always right, every block stands: its acceptance is 1, not unknown."""
    ensemble = Ensemble([table(1), table(1)], schedule="auto", proposer=table(1))
    params = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)
    ensemble.generate([[1]], params)
    planner = ensemble.planner_for(params)
    drafter = len(ensemble.member_names)
    assert planner.beliefs.acceptance(drafter, None) == pytest.approx(1.0)
    assert planner.beliefs.by_place[drafter, None, 0].count > 0


def speed(ensemble, num_texts, length=60):
    """Tokens a second of so many texts at once."""
    begun = Clock.now
    results = ensemble.generate([[0]] * num_texts, SamplingParams(max_tokens=length))
    return sum(result.completion_tokens for result in results) / (Clock.now - begun)


@pytest.mark.parametrize("num_texts", [1, 4, 32])
def test_auto_is_as_fast_as_plain_with_any_number_of_texts(num_texts):
    """Eight tokens cost a call what one does, and many cost what they are: what pays for one text does not for 32."""
    members = [Slow(LIKE_A, 0.010, 0.001), Slow(LIKE_A, 0.010, 0.001)]
    ensemble = Ensemble(members, proposer=Slow(HOPELESS, 0.002), schedule="auto")
    speed(ensemble, num_texts)
    assert speed(ensemble, num_texts) > 0.97 * speed(ensemble.with_plan(schedule="plain"), num_texts)


@pytest.mark.parametrize("num_texts", [2, 16])
@pytest.mark.parametrize("drafter", [LIKE_A, HOPELESS], ids=["good", "hopeless"])
def test_from_a_cold_start_several_texts_wait_little_for_what_is_tried(num_texts, drafter):
    """Each token of a pass costs as much as the pass itself, so that no draft pays."""
    members = [Slow(LIKE_A, 0.002, 0.002), Slow(LIKE_A, 0.002, 0.002)]
    ensemble = Ensemble(members, proposer=Slow(drafter, 0.001, 0.001), schedule="auto")
    assert speed(ensemble, num_texts, 64) > 0.88 * speed(ensemble.with_plan(schedule="plain"), num_texts, 64)


@pytest.mark.parametrize("num_texts", [2, 8])
def test_several_texts_are_drafted_for_where_that_pays(num_texts):
    members = [Slow(LIKE_A, 0.010, 0.0001), Slow(LIKE_A, 0.010, 0.0001)]
    ensemble = Ensemble(members, proposer=Slow(LIKE_A, 0.0005), schedule="auto")
    speed(ensemble, num_texts, 64)
    assert speed(ensemble, num_texts, 64) > 1.5 * speed(ensemble.with_plan(schedule="plain"), num_texts, 64)


def round_of(num_live):
    return Round(
        sheets=[],
        num_live=num_live,
        num_moved=1,
        num_decided=0,
        num_settled=0,
        seconds=0.0,
        seconds_in_models=0.0,
        has_prefill=True,
    )


def test_a_window_ends_when_there_are_half_or_twice_as_many_texts():
    planner, _ = learned({"a": Slow(LIKE_A, 0.004), "b": Slow(LIKE_A, 0.004)}, Slow(LIKE_A, 0.0001))
    for num_texts, is_new in ((8, True), (6, False), (5, False), (4, True), (1, True), (1, False)):
        before = planner._window
        planner.on_round(round_of(num_texts))
        assert (planner._window is not before) == is_new


def test_the_schedules_that_auto_runs_learn_of_their_own_sequences():
    class Listening(Schedule):
        """Plain, which notes which of its sequences are live and what was reported of them."""

        name = "listening"

        def __init__(self):
            self.live, self.reported = set(), set()

        def on_begin(self, sheet):
            assert sheet not in self.live
            self.live.add(sheet)

        def on_settled(self, sheet, tokens):
            assert sheet in self.live
            self.reported |= {"settled"}

        def on_forward(self, lane, num_tokens, seconds):
            self.reported |= {"forward"}

        def on_round(self, done):
            self.reported |= {"round"}

        def on_end(self, sheet):
            self.live.remove(sheet)

    ensemble = Ensemble([Slow(LIKE_A, 0.004), Slow(LIKE_A, 0.004)])
    planner = ensemble.planner_for(SamplingParams())
    schedules = planner.plans = {plan: Listening() for plan in planner.plans}
    results = ensemble.generate([[0]] * 3, SamplingParams(max_tokens=150))
    assert [result.error for result in results] == [None] * 3
    ran = [schedule for schedule in schedules.values() if schedule.reported]
    assert len(ran) > 1
    assert all(schedule.reported == {"settled", "forward", "round"} for schedule in ran)
    assert not any(schedule.live for schedule in schedules.values())


def test_a_plan_that_is_slower_than_its_theory_is_left():
    """What its windows gave counts, not what was predicted of it."""
    members = {"a": Slow(LIKE_A, 0.004), "b": Slow(LIKE_A, 0.004)}
    planner, _ = learned(members, Slow(LIKE_A, 0.0001))
    best = planner.chosen
    for _ in range(40):
        planner._learn(Window(best, tokens=10, seconds=10 / (0.5 * planner._theory(best))))
    planner._choose()
    assert planner.chosen != best
    assert planner.predictions[best] < planner._theory(best)


@pytest.mark.parametrize("theory", [17.0, 20.0, 25.0])
@pytest.mark.parametrize("paces", [[0.02, 0.08], [0.02, 0.02, 0.11], [0.05]])
def test_stretches_of_a_text_count_by_the_time_that_they_take(theory, paces):
    """Windows are of as many tokens each: a plan's speed is all their tokens over all their seconds, and not the mean
    of their speeds, which is that of the fast stretches."""
    beliefs = Beliefs(Mixture([1.0]), 1, SamplingParams())
    predicted = []
    for number in range(240):
        beliefs.record_window("uneven", theory, tokens=24, seconds=24 * paces[number % len(paces)])
        predicted.append(1 / beliefs.predicted({"uneven": theory})["uneven"])
    mean = sum(paces) / len(paces)
    assert sum(predicted[120:]) / 120 == pytest.approx(mean, rel=0.1)


def test_a_drafter_stops_earlier_where_a_draft_more_costs_more():
    floors = {}
    for token in (0.0, 0.003):
        members = {"a": Slow(LIKE_A, 0.004, token), "b": Slow(LIKE_A, 0.004, token)}
        planner, _ = learned(members, Slow(LIKE_A, 0.0001))
        floors[token] = planner.plans["fixed auto by member"].stop.floor
    assert floors[0.003] > 2 * floors[0.0]


def test_a_sure_block_ends_where_the_next_one_gives_more():
    """Where a block without drafts takes no more than two drafts, sixteen sure ones give less a second than a few and a
    few again; where it takes a hundred, all are drafted."""
    sure = [Draft(0, 1, None, place=i, confidence=1.0) for i in range(16)]
    lengths = {}
    for overhead in (2.0, 100.0):
        rule = StopRule(floor=0.05, acceptances=(0.98,) * len(PRIOR), acceptance=0.9, overhead=overhead)
        lengths[overhead] = next((i for i in range(16) if not rule.goes_on(sure[:i])), 16)
    # The most tokens a second, by enumeration: 1 + sum .98^k over overhead + n drafts.
    speeds = {n: sum(0.98**k for k in range(n + 1)) / (2.0 + n) for n in range(1, 17)}
    assert speeds[lengths[2.0]] > 0.98 * max(speeds.values())
    assert lengths[2.0] < 12
    assert lengths[100.0] == 16


@pytest.mark.parametrize("num_texts", [1, 4])
def test_tokens_that_one_plan_drafted_are_not_another_plans(monkeypatch, num_texts):
    """Where drafts stand as a window begins, its own plan has no part in what becomes of them."""
    windows = []

    def in_turn(planner):
        planner._weigh()
        windows.append(Window(("plain", "fixed auto by member")[len(windows) % 2], planner.beliefs.bucket))
        planner._chosen = "plain"
        return windows[-1]

    monkeypatch.setattr(Auto, "_next", in_turn)
    # Blocks as long as those that they are compared with, however short ones would do.
    monkeypatch.setattr(StopRule, "goes_on", lambda rule, drafts: len(drafts) < MOST_DRAFTED)
    members = [Member(model=Slow(LIKE_A, 0.010), name="a")]
    ensemble = Ensemble(members, proposer=Slow(LIKE_A, 0.003), schedule="auto", max_sequences=num_texts)
    results = ensemble.generate([[0]] * num_texts, SamplingParams(max_tokens=1500, ignore_eos=True))
    assert [result.error for result in results] == [None] * len(results)
    own = [window for window in windows[2:-1] if window.plan == "plain" and window.bucket == num_texts]
    assert len(own) > 5
    assert all(window.tokens <= 1.001 * num_texts * 100 * window.seconds for window in own)
    drafted = [window for window in windows[2:-1] if window.plan != "plain" and window.bucket == num_texts]
    seconds = sum(window.seconds for window in drafted)
    fixed = ensemble.with_plan(schedule="fixed", gamma=16, proposer="member")
    assert sum(window.tokens for window in drafted) / seconds == pytest.approx(speed(fixed, num_texts, 400), rel=0.01)


def test_what_a_plan_puts_off_is_charged_to_it(monkeypatch):
    """Where every token costs the same, the plan under which a member is fed later is as fast as plain, and must not
    seem faster each time that it begins."""
    windows = []

    def in_turn(planner):
        windows.append(Window(("plain", "mixture")[len(windows) % 2], bucket=8))
        planner._chosen = "plain"
        return windows[-1]

    monkeypatch.setattr(Auto, "_next", in_turn)
    speed(Ensemble([Slow(LIKE_A, 0.0, 0.001), Slow(LIKE_A, 0.0, 0.001)], schedule="auto"), 8, length=500)
    timed = [era for era in windows[2:-2] if era.plan == "mixture"]
    assert len(timed) > 10
    assert sum(era.tokens for era in timed) / sum(era.seconds for era in timed) == pytest.approx(500, rel=0.02)


def test_a_prompt_that_a_member_never_read_is_no_time_won(monkeypatch):
    """Short texts may end before a member of a mixture is drawn at all."""
    windows = []

    def always(planner):
        windows.append(Window("mixture", bucket=4))
        planner._chosen = "mixture"
        return windows[-1]

    monkeypatch.setattr(Auto, "_next", always)
    # Every round that counts is a window of its own.
    for name in ("WINDOW_TOKENS", "WINDOW_TOKENS_A_SEQUENCE", "WINDOW_SECONDS"):
        monkeypatch.setattr(f"cospec.schedule.auto.{name}", 0)
    members = [Slow(LIKE_A, 0.0, 0.001), Slow(LIKE_A, 0.0, 0.001)]
    ensemble = Ensemble(members, schedule="auto", max_sequences=4)
    ensemble.generate([[0] * 300] * 60, SamplingParams(max_tokens=3))
    assert len(windows) > 2
    assert all(era.seconds >= 0 for era in windows)
    assert sum(era.tokens for era in windows) <= 1.1 * 1000 * sum(era.seconds for era in windows)

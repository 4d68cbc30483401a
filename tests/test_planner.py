"""`auto` finds the plan that its measurements say is the fastest, and leaves what does not pay."""

import math
import time

import pytest

from cospec import Ensemble, SamplingParams, toy
from cospec.errors import InvalidEnsemble, InvalidPrompt
from cospec.members import Member
from cospec.planner import Average, Costs
from cospec.schedule import Plan
from cospec.tune import tune, write_plan

from .toys import table

VOCAB = 6
LIKE_A = [0.5, 0.2, 0.1, 0.1, 0.05, 0.05]
HOPELESS = [0.001, 0.001, 0.001, 0.001, 0.001, 0.995]


class Slow(toy.FunctionRunner):
    """A model whose calls take so many seconds, and a bit more for each token."""

    def __init__(self, probs, call, token=0.0):
        logits = [math.log(p) for p in probs]
        super().__init__(VOCAB, lambda prefix: logits)
        self._call, self._token = call, token

    def feed(self, batch):
        until = time.perf_counter() + self._call + self._token * sum(len(feed.tokens) for feed in batch)
        rows = super().feed(batch)
        while time.perf_counter() < until:
            pass
        return rows


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


def test_a_hopeless_drafter_is_left():
    members = {"a": Slow(LIKE_A, 0.002, 0.001)}
    planner, (result,) = learned(members, Slow(HOPELESS, 0.002))
    assert planner.chosen == "plain"
    assert result.drafters["member"].calls < 80


def test_where_every_token_costs_the_same_nothing_is_drafted():
    members = {"a": Slow(LIKE_A, 0.0, 0.002), "b": Slow(HOPELESS, 0.0, 0.002)}
    planner, _ = learned(members, Slow(HOPELESS, 0.002), temperature=0)
    assert planner.predictions[planner.chosen] <= planner.predictions["plain"] * 1.2


def test_with_a_seed_the_text_does_not_depend_on_what_was_measured():
    members = {"a": Slow(LIKE_A, 0.0), "b": Slow(HOPELESS, 0.0)}
    planner, (result,) = learned(members, None, length=20, seed=3)
    assert planner is None
    assert result.plan is None


def test_a_coupled_text_may_be_planned_with_a_seed():
    ensemble = Ensemble([Slow(LIKE_A, 0.0), Slow(HOPELESS, 0.0)], schedule="auto", verification="coupled")
    params = SamplingParams(max_tokens=60, seed=3)
    assert ensemble.planner_for(params) is not None
    (auto,) = ensemble.generate([[0]], params)
    (plain,) = ensemble.with_plan(schedule="plain").generate([[0]], params)
    assert auto.token_ids == plain.token_ids


def test_costs_are_read_between_what_was_measured():
    costs = Costs()
    costs.add(0, 1, 1, 1.0)
    costs.add(0, 1, 5, 3.0)
    assert costs.seconds(0, 1, 3) == pytest.approx(2.0)
    assert costs.seconds(0, 1, 1) == pytest.approx(1.0)
    assert costs.seconds(0, 1, 10) == pytest.approx(3.3)
    assert costs.seconds(1, 1, 1) == 0.0


def test_a_stall_counts_as_three_calls_at_most():
    costs = Costs()
    for _ in range(10):
        costs.add(0, 1, 1, 1.0)
    costs.add(0, 1, 1, 1000.0)
    assert costs.seconds(0, 1, 1) < 1.5


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


def test_there_must_be_something_to_tune_on():
    with pytest.raises(InvalidPrompt):
        tune(Ensemble([Slow(LIKE_A, 0.0)]), [], SamplingParams(), on_text=print)


def test_a_plan_is_written_into_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("# ours\nmembers:\n  - model: demo:math\nschedule: plain\ngamma: 3\ncombine: mixture\n")
    write_plan(Plan(schedule="cascade", gamma=(4, 8), proposer="drafter", first="math"), path, path)
    assert path.read_text() == (
        "# ours\nmembers:\n  - model: demo:math\ncombine: mixture\n"
        "schedule: cascade\ngamma: [4, 8]\nproposer: drafter\nfirst: math\n"
    )


def test_a_setting_of_several_lines_is_not_replaced(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("members: [demo:math]\ngamma:\n  - 1\n  - 2\n")
    with pytest.raises(InvalidEnsemble, match="gamma"):
        write_plan(Plan(schedule="plain"), path, path)


def test_a_block_that_stood_whole_counts_for_its_drafter():
    """At temperature 0 with a drafter that is always right, every block stands: its acceptance is 1, not unknown."""
    ensemble = Ensemble([table(1), table(1)], schedule="auto", proposer=table(1))
    params = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)
    ensemble.generate([[1]], params)
    planner = ensemble.planner_for(params)
    drafter = len(ensemble.member_names)
    assert planner.acceptance(drafter, None) == pytest.approx(1.0)
    assert planner.by_place[drafter, None, 0].count > 0


def test_many_texts_are_first_decoded_plainly():
    """What one token costs so many texts at once is measured before anything is drafted for them."""
    ensemble = Ensemble([table(1), table(2)], schedule="auto", proposer=table(3))
    params = SamplingParams(max_tokens=60, ignore_eos=True)
    ensemble.generate([[1]] * 3, params)
    planner = ensemble.planner_for(params)
    planner.num_rows = 16
    plain = next(iter(planner.candidates.values()))
    assert all(planner.choose() is plain for _ in range(32))
    assert planner._decisions_a_try() > 16 * 64

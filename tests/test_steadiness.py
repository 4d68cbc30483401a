"""Whether a machine was disturbed while it was measured: said, measured again, and never a slower plan for a better."""

import pytest

from cospec import Ensemble, SamplingParams
from cospec.study.results import PLAIN, Measurement
from cospec.study.steadiness import MOST_HELD_UP, MOST_SPREAD, Steadiness, steadiness
from cospec.study.tune import MOST_ROUNDS, NUM_STEADY, NUM_TIMED, tune

from .test_planner import LIKE_A, Clock, Slow, clock

__all__ = ["clock"]


def run_of(method, seconds, repeat, *, batch=0, tokens=10):
    return Measurement(
        method=method, concurrency=1, batch=batch, repeat=repeat, category="all", prompts=(batch,), tokens=tokens,
        seconds=seconds, first_token_seconds=(), text_seconds=(), joules=None,
    )  # fmt: skip


def runs_of(method, *repeats):
    """repeats: of each batch, the seconds of its runs."""
    return [run_of(method, took, i, batch=batch) for batch, each in enumerate(repeats) for i, took in enumerate(each)]


@pytest.mark.parametrize(
    ("runs", "spread", "held_up"),
    [
        (runs_of(PLAIN, (1.0, 1.05), (2.0, 2.0), (1.0, 1.1)), 1.05, 1.05),
        (runs_of("single:a", (1.0, 2.0), (3.0, 1.0)), 2.5, 2.0),
        # Of two runs one was held up, and so is what counts of them; of three it does not count.
        (runs_of(PLAIN, (1.0, 1.05), (2.0, 2.0), (1.0, 9.0)), 1.05, 5.0),
        (runs_of(PLAIN, (1.0, 1.05, 1.05), (2.0, 2.0, 2.0), (1.0, 1.0, 9.0)), 1.05, 1.05),
        # Of a schedule that drafts, one text takes longer than another.
        (runs_of("fixed", (1.0, 9.0)), None, None),
        (runs_of(PLAIN, (1.0,), (9.0,)), None, None),
    ],
)
def test_the_spread_is_that_of_the_same_work(runs, spread, held_up):
    found = steadiness(runs)
    assert found.spread == (None if spread is None else pytest.approx(spread))
    assert found.held_up == (None if held_up is None else pytest.approx(held_up))
    is_disturbed = spread is not None and (spread > MOST_SPREAD or held_up > MOST_HELD_UP)
    assert (found.disturbance is not None) == is_disturbed


@pytest.mark.parametrize(("off", "is_said"), [(1.0, False), (0.7, False), (1.45, False), (7.4, True), (0.3, True)])
def test_a_prediction_that_is_far_off_is_said(off, is_said):
    said = Steadiness(off={"fixed 4": off}, load=3.0).disturbance
    assert (said is not None) == is_said
    if said:
        assert f"predicted over measured speed of 'fixed 4' is {off:.2f}" in said
        assert "3.0 processes a core" in said


class Disturbed(Slow):
    """Once `begins`, other processes take the cores: calls take as many times as long as `factors` say, in turn."""

    def __init__(self, probs, call, factors=(1.0,)):
        super().__init__(probs, call)
        self.usual, self.factors, self.is_disturbed, self.num_calls = call, factors, False, 0

    def feed(self, batch):
        if self.is_disturbed:
            self._call = self.usual * self.factors[self.num_calls // 30 % len(self.factors)]
            self.num_calls += 1
        return super().feed(batch)


def tuned(member, drafter, num_prompts=2):
    """Tuned by a machine that is quiet while `auto` learns."""
    choices = []

    def on_text(choice):
        choices.append(choice)
        if choice and choices[-NUM_STEADY:] == [choice] * NUM_STEADY:
            member.is_disturbed = drafter.is_disturbed = True

    ensemble = Ensemble([member], proposer=drafter)
    prompts = [[number % 6] for number in range(num_prompts)]
    return tune(ensemble, prompts, SamplingParams(max_tokens=60, ignore_eos=True), on_text=on_text)


def test_on_a_quiet_machine_each_prompt_is_timed_once():
    tuning = tuned(Disturbed(LIKE_A, 0.004), Disturbed(LIKE_A, 0.0001))
    assert tuning.num_rounds == 1
    assert tuning.slower is None
    assert tuning.to_dict()["disturbance"] is None
    assert tuning.plan == tuning.comparisons[1].plan


def test_what_other_processes_slow_is_timed_again_and_said():
    """All takes seven times as long as while the planner learned."""
    tuning = tuned(Disturbed(LIKE_A, 0.004, (7.4,)), Disturbed(LIKE_A, 0.0001, (7.4,)))
    assert tuning.num_rounds == MOST_ROUNDS
    assert tuning.steadiness.off[str(tuning.plan)] == pytest.approx(7.4, rel=0.4)
    assert f"predicted over measured speed of '{tuning.plan}' is " in tuning.to_dict()["disturbance"]
    # Disturbed alike, the chosen plan is faster still.
    assert tuning.slower is None


def test_a_plan_that_is_measured_to_be_slower_than_plain_is_not_the_plan():
    """The drafter is slowed alone, as where it shares a core with others."""
    tuning = tuned(Disturbed(LIKE_A, 0.004), Disturbed(LIKE_A, 0.0001, (400.0,)))
    plain, slower = tuning.comparisons
    assert slower.measured < plain.measured
    assert tuning.plan == plain.plan
    assert tuning.plan.schedule == "plain"
    assert tuning.slower == slower.plan
    assert tuning.drafters == ()
    assert tuning.num_rounds == MOST_ROUNDS


def test_of_repeated_runs_the_fastest_counts():
    """The load comes and goes: what is reported are the speeds of a quiet machine, as predicted."""
    load = (1.0, 1.0, 6.0, 1.0, 1.0, 1.0)
    tuning = tuned(Disturbed(LIKE_A, 0.004, load), Disturbed(LIKE_A, 0.0001), num_prompts=NUM_TIMED)
    plain = tuning.comparisons[0]
    assert tuning.num_rounds > 1
    assert plain.measured == pytest.approx(1 / 0.004, rel=0.35)
    assert Clock.now > 0

"""The figures that verdicts hang on: intervals that cover, and a test of equivalence that keeps its error rate."""

import math
import random

import numpy as np
import pytest

from cospec.study.equivalence import equivalence_p, mean_score, paired_difference
from cospec.study.intervals import studentized
from cospec.study.results import Measurement
from cospec.study.speeds import faster

NUM_TRIALS = 500


def timings(rng, num_prompts, ratio):
    """Runs of `plain` and of a method `ratio` times as fast on unequal prompts; clocks stray to the long side."""
    runs = []
    for prompt in range(num_prompts):
        cost = math.exp(rng.gauss(0, 0.4))
        # How much a method gains differs from prompt to prompt; `ratio` is the geometric mean.
        own = math.exp(rng.gauss(0, 0.15))
        for repeat in range(3):
            for name, seconds in (("plain", cost), ("auto", cost * own / ratio)):
                strayed = seconds * math.exp(0.05 * (rng.expovariate(1) - 1))
                runs.append(
                    Measurement(
                        method=name,
                        concurrency=1,
                        batch=prompt,
                        repeat=repeat,
                        category="all",
                        prompts=(prompt,),
                        tokens=10,
                        seconds=strayed,
                        first_token_seconds=(strayed / 10,),
                        text_seconds=(strayed,),
                        joules=None,
                    )
                )
    return runs


@pytest.mark.parametrize("num_prompts", [8, 24, 60])
def test_the_interval_of_the_speed_covers_the_true_ratio_as_often_as_it_says(num_prompts):
    rng = random.Random(num_prompts)
    covered = 0
    for _ in range(NUM_TRIALS):
        found = faster(timings(rng, num_prompts, ratio=1.7), "auto", "plain")
        covered += found.low <= 1.7 <= found.high
    assert 0.93 <= covered / NUM_TRIALS <= 0.97


def test_too_few_prompts_have_no_interval():
    found = faster(timings(random.Random(1), 3, ratio=2.0), "auto", "plain")
    assert found.low is None
    assert found.num == 3
    assert studentized([1.0, 1.0, 1.0, 1.0, 1.0]) == (1.0, 1.0)


def at_the_margin(rng, num, margin, worse):
    """Right-or-wrong scores whose true difference is -margin: ours are worse on `worse` of the prompts."""
    ours, plain = [], []
    for _ in range(num):
        drawn = rng.random()
        is_worse, is_better = drawn < worse, worse <= drawn < 2 * worse - margin
        agreed = float(rng.random() < 0.5)
        ours.append(0.0 if is_worse else 1.0 if is_better else agreed)
        plain.append(1.0 if is_worse else 0.0 if is_better else agreed)
    return ours, plain


@pytest.mark.parametrize("num", [20, 40, 70])
@pytest.mark.parametrize("worse", [0.1, 0.15, 0.3])
def test_at_the_edge_of_the_margin_at_most_one_in_twenty_is_called_equivalent(num, worse):
    rng = random.Random(num)
    wrong = sum(equivalence_p(*at_the_margin(rng, num, 0.1, worse), 0.1) <= 0.05 for _ in range(NUM_TRIALS))
    # Two standard errors above the rate itself.
    assert wrong / NUM_TRIALS <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / NUM_TRIALS)


@pytest.mark.parametrize("spread", [0.2, 0.5])
def test_the_same_holds_of_scores_between_right_and_wrong(spread):
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(NUM_TRIALS):
        plain = rng.uniform(0.4, 0.6, 40)
        # Half as many losses as `spread` is large, so that a tenth is lost on average.
        ours = plain - np.where(rng.random(40) < 0.1 / spread * 0.999, spread * 0.8, 0) - 0.02
        wrong += equivalence_p([*ours], [*plain], 0.1) <= 0.05
    assert wrong / NUM_TRIALS <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / NUM_TRIALS)


def test_equal_answers_are_as_sure_as_their_number_allows():
    # 0.9 ^ 28 is above 0.05, and 0.9 ^ 29 below: so often a loss on one prompt in ten stays unseen.
    assert equivalence_p([1.0] * 28, [1.0] * 28, 0.1) > 0.05
    assert equivalence_p([1.0] * 29, [1.0] * 29, 0.1) <= 0.05
    assert equivalence_p([0.5] * 28, [0.5] * 28, 0.1) > 0.05


def test_what_is_as_good_is_found_so_and_what_is_worse_is_not():
    rng = random.Random(0)
    agreed = [float(rng.random() < 0.5) for _ in range(120)]
    assert equivalence_p(agreed, agreed, 0.05) < 0.01
    assert equivalence_p([0.0] * 120, [1.0] * 120, 0.05) > 0.99
    assert equivalence_p([1.0] * 120, [0.0] * 120, 0.05) > 0.99


def test_intervals_of_scores_do_not_collapse_where_all_answers_agree():
    equal = paired_difference([1.0] * 18, [1.0] * 18)
    assert equal.mean == 0
    assert equal.low == pytest.approx(-equal.high)
    assert equal.high == pytest.approx(1.96**2 / (18 + 1.96**2), abs=1e-3)
    none = mean_score([0.0] * 10)
    assert none.low == pytest.approx(0, abs=1e-9)
    assert none.high > 0.2
    assert paired_difference([0.3, 0.4, 0.5, 0.3, 0.4, 0.6], [0.1, 0.1, 0.2, 0.1, 0.1, 0.2]).low > 0

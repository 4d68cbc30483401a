"""Paired scores of two methods: their difference with its interval, and whether they are equivalent within a margin.

Answers are mostly right or wrong, and the two methods mostly agree: then differences are rare, and a t-test on a few
dozen of them, which sees no spread at all, claims far too much. So right-or-wrong scores are compared by Tango's score
statistic (1998), whose p-values are exact (the largest over the unknown rate of disagreement) for studies small enough
to count through.
"""

import math
import statistics
from collections.abc import Sequence as Values
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .intervals import FEWEST_UNITS, studentized
from .results import Interval
from .scipy_stats import stats

# Up to so many pairs all outcomes are counted through.
MOST_COUNTED = 150
NUM_RATES = 64
NORMAL_QUANTILE = 1.959964

Numbers = NDArray[np.float64]


def mean_score(scores: Values[float]) -> Interval:
    """Of scores from 0 to 1: Wilson's interval where they are right or wrong, else bootstrap-t."""
    if not _are_binary(scores):
        return _interval(scores, studentized([*scores]))
    shares = stats.binomtest(round(sum(scores)), len(scores)).proportion_ci(method="wilson")
    return _interval(scores, (float(shares.low), float(shares.high)))


def paired_difference(ours: Values[float], theirs: Values[float]) -> Interval:
    """ours - theirs, pair by pair: Tango's interval where they are right or wrong, else bootstrap-t."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    if not (_are_binary(ours) and _are_binary(theirs)):
        return _interval(differences, studentized(differences))
    better, worse, num = _disagreements(differences)
    ends = (-_upper_end(worse, better, num), _upper_end(better, worse, num))
    return _interval(differences, ends if num >= FEWEST_UNITS else None)


def equivalence_p(ours: Values[float], theirs: Values[float], margin: float) -> float:
    """The larger p-value of two one-sided tests: that ours are worse, or better, than theirs by the margin or more."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    if _are_binary(ours) and _are_binary(theirs):
        better, worse, num = _disagreements(differences)
        return max(_p_worse(better, worse, num, margin), _p_worse(worse, better, num, margin))
    return max(_p_below(differences, margin), _p_below([-each for each in differences], margin))


def _interval(values: Values[float], ends: tuple[float, float] | None) -> Interval:
    low, high = ends or (None, None)
    return Interval(mean=statistics.fmean(values), low=low, high=high, num=len(values))


def _are_binary(scores: Values[float]) -> bool:
    return all(score in (0, 1) for score in scores)


def _disagreements(differences: Values[float]) -> tuple[int, int, int]:
    return sum(d > 0 for d in differences), sum(d < 0 for d in differences), len(differences)


def tango(better: Numbers, worse: Numbers, num: int, delta: float) -> Numbers:
    """Standard errors that better - worse lies above num * delta, at the likeliest rates for which delta is true."""
    linear = -better - worse + (2 * num - better + worse) * delta
    constant = -worse * delta * (1 - delta)
    rate = (np.sqrt(np.maximum(linear**2 - 8 * num * constant, 0)) - linear) / (4 * num)
    variance = num * (2 * rate + delta * (1 - delta))
    above = better - worse - num * delta
    # Without variance the sign decides: zero above zero is no evidence.
    return np.where(variance > 1e-12, above / np.sqrt(np.maximum(variance, 1e-12)), np.sign(above) * np.inf)


def _tango(better: int, worse: int, num: int, delta: float) -> float:
    with np.errstate(invalid="ignore"):
        return float(tango(np.array(float(better)), np.array(float(worse)), num, delta))


def _upper_end(better: int, worse: int, num: int) -> float:
    """The largest difference that 95 % confidence leaves, by bisection: the statistic falls as delta grows."""
    low, high = (better - worse) / num, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _tango(better, worse, num, middle) > -NORMAL_QUANTILE else (low, middle)
    return low


def _p_worse(better: int, worse: int, num: int, margin: float) -> float:
    """Of the hypothesis that the difference is -margin or less."""
    if num > MOST_COUNTED:
        return float(stats.norm.sf(_tango(better, worse, num, -margin)))
    table = _p_values(num, margin)
    return float(table[better, worse])


@lru_cache(maxsize=8)
def _p_values(num: int, margin: float) -> Numbers:
    """[better, worse]: the probability of what is at least as far from the hypothesis, at the worst rate for it."""
    better, worse = np.meshgrid(np.arange(num + 1.0), np.arange(num + 1.0), indexing="ij")
    is_possible = better + worse <= num
    with np.errstate(invalid="ignore"):
        scores = np.where(is_possible, tango(better, worse, num, -margin), -np.inf)
    order = np.argsort(-scores, axis=None, kind="stable")
    ranked = scores.ravel()[order]
    # Ties count as equally far: each stands where the last of them does.
    last = np.searchsorted(-ranked, -ranked + 1e-9, side="right") - 1
    largest = np.zeros(ranked.size)
    for rate in np.linspace(margin, (1 + margin) / 2, NUM_RATES):
        chances = _trinomial(better, worse, num, rate - margin, rate).ravel()[order]
        largest = np.maximum(largest, np.cumsum(chances)[last])
    values = np.ones(ranked.size)
    values[order] = np.minimum(largest, 1.0)
    return values.reshape(scores.shape)


def _trinomial(better: Numbers, worse: Numbers, num: int, p_better: float, p_worse: float) -> Numbers:
    equal = num - better - worse
    p_equal = max(0.0, 1 - p_better - p_worse)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = (
            _log_factorial(num)[num] - _log_factorial(num)[better.astype(int)] - _log_factorial(num)[worse.astype(int)]
        )
        logs = logs - _log_factorial(num)[np.maximum(equal, 0).astype(int)]
        for count, chance in ((better, p_better), (worse, p_worse), (equal, p_equal)):
            logs = logs + np.where(count > 0, count * np.log(chance) if chance > 0 else -np.inf, 0.0)
    return np.where(equal >= 0, np.exp(logs), 0.0)


def _log_factorial(num: int) -> Numbers:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, num + 1)))])


def _p_below(differences: Values[float], margin: float) -> float:
    """For scores between right and wrong: a t-test to which one difference of -1 and one of 1 are added, so that it
    never takes a few equal pairs for a law. Where no pair is worse, it is no surer than their number allows."""
    padded = [*differences, -1.0, 1.0]
    p_value = float(stats.ttest_1samp(padded, -margin, alternative="greater").pvalue)
    if min(differences) >= 0:
        return max(p_value, math.pow(1 - margin, len(differences)))
    return p_value

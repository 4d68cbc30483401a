"""Paired scores of two methods: their difference with its interval, and whether they are equivalent within a margin.

Answers are mostly right or wrong, and the two methods mostly agree, so differences are rare: a t-test on a few dozen
of them sees hardly any spread and claims far too much. Binary scores are therefore compared by Tango's score statistic
(1998). Its p-values are exact for studies small enough to enumerate: the largest over the unknown rate of disagreement.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingExtra
from .intervals import FEWEST_UNITS, mean_interval, with_ends
from .results import Interval

try:
    from scipy import stats
except ImportError:
    raise MissingExtra("a pilot's tests need scipy: pip install 'cospec[pilot]'") from None

# Up to this number of pairs all outcomes are enumerated, at so many rates of disagreement.
MOST_ENUMERATED, NUM_RATES = 150, 64
NORMAL_QUANTILE = 1.959964

Numbers = NDArray[np.float64]


def mean_score(scores: Sequence[float]) -> Interval:
    """The mean of scores from 0 to 1: with Wilson's interval where all are 0 or 1, else with bootstrap-t."""
    if not _are_binary(scores):
        return mean_interval(scores)
    share = stats.binomtest(round(sum(scores)), len(scores)).proportion_ci(method="wilson")
    return with_ends(scores, (float(share.low), float(share.high)))


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """The mean of ours - theirs, pair by pair: with Tango's interval where all are 0 or 1, else with bootstrap-t."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    if not (_are_binary(ours) and _are_binary(theirs)):
        return mean_interval(differences)
    better, worse, num = _disagreements(differences)
    ends = (-_upper_end(worse, better, num), _upper_end(better, worse, num))
    return with_ends(differences, ends if num >= FEWEST_UNITS else None)


def equivalence_p(ours: Sequence[float], theirs: Sequence[float], margin: float) -> float:
    """The larger p-value of two one-sided tests: that ours are worse, or better, than theirs by the margin or more."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    if _are_binary(ours) and _are_binary(theirs):
        better, worse, num = _disagreements(differences)
        return max(_p_worse(better, worse, num, margin), _p_worse(worse, better, num, margin))
    return max(_p_below(differences, margin), _p_below([-each for each in differences], margin))


def _are_binary(scores: Sequence[float]) -> bool:
    return all(score in (0, 1) for score in scores)


def _disagreements(differences: Sequence[float]) -> tuple[int, int, int]:
    """How many pairs ours won, how many theirs won, and of how many pairs."""
    return sum(d > 0 for d in differences), sum(d < 0 for d in differences), len(differences)


def _tango(better: Numbers, worse: Numbers, num: int, delta: float) -> Numbers:
    """Tango's statistic for a true difference of rates `delta`: better - worse - num * delta in standard errors, at the
    most likely rates under that difference. better, worse: numbers of disagreements among `num` pairs, any shape."""
    linear = -better - worse + (2 * num - better + worse) * delta
    constant = -worse * delta * (1 - delta)
    rate = (np.sqrt(np.maximum(linear**2 - 8 * num * constant, 0)) - linear) / (4 * num)
    variance = num * (2 * rate + delta * (1 - delta))
    above = better - worse - num * delta
    # Without variance the sign decides; zero above zero, which is no evidence, becomes nan.
    with np.errstate(invalid="ignore"):
        return np.where(variance > 1e-12, above / np.sqrt(np.maximum(variance, 1e-12)), np.sign(above) * np.inf)


def _tango_of(better: int, worse: int, num: int, delta: float) -> float:
    return float(_tango(np.array(float(better)), np.array(float(worse)), num, delta))


def _upper_end(better: int, worse: int, num: int) -> float:
    """The upper end of the 95 % interval of the difference, by bisection: the statistic falls as delta grows."""
    low, high = (better - worse) / num, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _tango_of(better, worse, num, middle) > -NORMAL_QUANTILE else (low, middle)
    return low


def _p_worse(better: int, worse: int, num: int, margin: float) -> float:
    """The p-value of the hypothesis that the difference of rates is -margin or less."""
    if num > MOST_ENUMERATED:
        return float(stats.norm.sf(_tango_of(better, worse, num, -margin)))
    return float(_exact_p_values(num, margin)[better, worse])


@lru_cache(maxsize=8)
def _exact_p_values(num: int, margin: float) -> Numbers:
    """[better, worse]: the probability, at the worst rate for it, of outcomes at least as far from the hypothesis."""
    better, worse = np.meshgrid(np.arange(num + 1.0), np.arange(num + 1.0), indexing="ij")
    scores = np.where(better + worse <= num, _tango(better, worse, num, -margin), -np.inf)
    order = np.argsort(-scores, axis=None, kind="stable")
    ranked = scores.ravel()[order]
    # Ties count as equally far: each gets the sum up to the last of them.
    last = np.searchsorted(-ranked, -ranked + 1e-9, side="right") - 1
    largest = np.zeros(ranked.size)
    for rate in np.linspace(margin, (1 + margin) / 2, NUM_RATES):
        chances = _trinomial(better, worse, num, rate - margin, rate).ravel()[order]
        largest = np.maximum(largest, np.cumsum(chances)[last])
    values = np.ones(ranked.size)
    values[order] = np.minimum(largest, 1.0)
    return values.reshape(scores.shape)


def _trinomial(better: Numbers, worse: Numbers, num: int, p_better: float, p_worse: float) -> Numbers:
    """[better, worse]: the probability of each outcome; 0 where they are more than `num` together."""
    equal = num - better - worse
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, num + 1)))])
    logs = log_factorial[num] - log_factorial[better.astype(int)] - log_factorial[worse.astype(int)]
    logs = logs - log_factorial[np.maximum(equal, 0).astype(int)]
    with np.errstate(divide="ignore", invalid="ignore"):
        for count, chance in ((better, p_better), (worse, p_worse), (equal, max(0.0, 1 - p_better - p_worse))):
            logs = logs + np.where(count > 0, count * np.log(chance) if chance > 0 else -np.inf, 0.0)
    return np.where(equal >= 0, np.exp(logs), 0.0)


def _p_below(differences: Sequence[float], margin: float) -> float:
    """The p-value of the hypothesis that the mean of graded scores' differences is -margin or less.

    A t-test, with one difference of -1 and one of 1 added, so that a few equal pairs do not pass for certainty. Where
    no pair is worse, p is at least the chance to see none if that many pairs could each be worse by 1.
    """
    padded = [*differences, -1.0, 1.0]
    p_value = float(stats.ttest_1samp(padded, -margin, alternative="greater").pvalue)
    if min(differences) >= 0:
        return max(p_value, math.pow(1 - margin, len(differences)))
    return p_value

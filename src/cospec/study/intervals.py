"""95 % bootstrap-t intervals of means, and of geometric means of paired ratios."""

import math
import statistics
from collections.abc import Sequence

import torch

from .results import Interval

NUM_RESAMPLES = 2000
# Fewer units than this have no interval: their own spread is too uncertain.
FEWEST_UNITS = 4


def studentized(values: Sequence[float]) -> tuple[float, float] | None:
    """The bootstrap-t interval of the mean; None for fewer than FEWEST_UNITS values.

    Each resample's mean is measured in its own standard errors (Efron and Tibshirani 1993, ch. 12). With ten values the
    interval covers the mean in 95 % of studies, where percentile and BCa intervals cover it in about 90 %.
    """
    if len(values) < FEWEST_UNITS:
        return None
    sample = torch.tensor(values, dtype=torch.float64)
    mean, error = float(sample.mean()), float(sample.std()) / len(values) ** 0.5
    # Values that are equal up to rounding have no spread to resample.
    if error <= 1e-12 * max(1.0, abs(mean)):
        return mean, mean
    picks = torch.randint(len(values), (NUM_RESAMPLES, len(values)), generator=torch.Generator().manual_seed(0))
    resamples = sample[picks]
    errors = resamples.std(-1) / len(values) ** 0.5
    has_spread = errors > 1e-9 * error
    scores = (resamples.mean(-1) - mean)[has_spread] / errors[has_spread]
    low, high = torch.quantile(scores, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return mean - high * error, mean - low * error


def with_ends(values: Sequence[float], ends: tuple[float, float] | None) -> Interval:
    """The mean of the values with the given ends of its interval."""
    low, high = ends or (None, None)
    return Interval(mean=statistics.fmean(values), low=low, high=high, num=len(values))


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean with its bootstrap-t interval."""
    return with_ends(values, studentized(values))


def geometric_mean(logs: Sequence[float]) -> Interval:
    """The geometric mean of ratios that are given by their logarithms, with its bootstrap-t interval."""
    ends = studentized(logs)
    low, high = map(math.exp, ends) if ends else (None, None)
    return Interval(mean=math.exp(statistics.fmean(logs)), low=low, high=high, num=len(logs))


def geometric(over: Sequence[float], under: Sequence[float]) -> Interval:
    """The geometric mean of the paired ratios over / under, with its bootstrap-t interval."""
    return geometric_mean([math.log(a / b) for a, b in zip(over, under, strict=True)])


def ratio(over: Sequence[float], under: Sequence[float]) -> Interval:
    """The same; where there are too few pairs for an interval, its ends are the smallest and the largest ratio."""
    estimate = geometric(over, under)
    if estimate.low is not None:
        return estimate
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    return Interval(mean=estimate.mean, low=min(ratios), high=max(ratios), num=estimate.num)

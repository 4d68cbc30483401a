"""The tokens that top-p and top-k keep, found without sorting a vocabulary, on a CPU.

Few of a row's log-probabilities can be large: at most e^d tokens have -d or more. So the tokens among which a
threshold lies are found by comparing the row with a few depths d, and those alone are sorted.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

# Shorter rows are sorted as they are: that takes no longer than to look for what to sort.
LEAST_SELECTED = 2**13
# How far below 0 the candidates go, at most.
DEPTHS = (11.0, 13.0)
# By how much the candidates must pass top_p for all other tokens to be beyond it, whatever running sums round to.
MARGIN = 1e-5


def is_selected(rows: Tensor) -> bool:
    """Whether rows are long enough, and on a CPU, to be selected from."""
    is_known = rows.dtype in (torch.float32, torch.float64)
    return is_known and rows.device.type == "cpu" and rows.shape[-1] >= LEAST_SELECTED


def before_each(ordered: Tensor) -> Tensor:
    """Of log-probabilities in descending order, the sum of the probabilities before each."""
    probs = ordered.exp()
    return probs.cumsum(-1) - probs


def num_kept(before: Tensor, top_p: float) -> Tensor:
    """How many of the most probable tokens top-p keeps, [..., 1]: as long as the sum before each is less than top_p.
    The most probable one stays, whatever top_p rounds to."""
    return (before < max(top_p, torch.finfo(before.dtype).tiny)).sum(-1, keepdim=True)


def kept_by_top_p(log_p: Tensor, top_p: float) -> Tensor:
    """Of one row [vocab] the smallest set of most probable tokens whose sum reaches top_p, ties to the lowest id:
    [kept], ascending."""
    for ids, are_all in _candidates(log_p):
        likely = log_p[ids]
        # All other tokens come behind the candidates, whose sum must reach top_p.
        if are_all or float(likely.exp().sum()) > top_p + MARGIN:
            ordered = torch.from_numpy(np.sort(likely.numpy())[::-1].copy())
            count = int(num_kept(before_each(ordered), top_p))
            return ids[_highest(likely, count, float(ordered[count - 1]))]
    raise AssertionError("the last candidates are all tokens")


def _highest(values: Tensor, count: int, least: float) -> Tensor:
    """Where the `count` highest values [n] stand, down to `least`, of equals the first: [count], ascending."""
    places = kept_by_floor(values, least)
    if len(places) == count:
        return places
    is_least = values[places] == least
    num_more = count - int((~is_least).sum())
    return places[~is_least | (is_least.cumsum(0) <= num_more)]


def kept_by_top_k(logits: Tensor, top_k: int) -> Tensor:
    """The tokens of one row [vocab], whose maximum is 0, that are no lower than its k-th highest: [kept], ascending."""
    for ids, are_all in _candidates(logits):
        likely = logits[ids]
        if len(ids) >= top_k:
            return ids[likely >= likely.topk(top_k).values[-1]]
        if are_all:
            return ids
    raise AssertionError("the last candidates are all tokens")


def kept_by_floor(logits: Tensor, floor: float) -> Tensor:
    """The tokens of one row [vocab] that are no lower: [kept], ascending."""
    return torch.from_numpy(np.flatnonzero(logits.numpy() >= floor))


def _candidates(row: Tensor) -> Iterator[tuple[Tensor, bool]]:
    """More and more of the highest tokens of a row [vocab], ascending, and whether they are all that are possible."""
    for depth in DEPTHS:
        ids = kept_by_floor(row, -depth)
        if len(ids):
            yield ids, False
    yield torch.from_numpy(np.flatnonzero(row.numpy() > -math.inf)), True

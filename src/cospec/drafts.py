"""Drafts: tokens not yet decided."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Draft:
    """One drafted token. `probs` [vocab] is what it was drawn from; `proposer` is the lane that drew it.

    place: how many undecided drafts stood before it. confidence: the proposer's own probability of the token, before
    the target's transforms.
    """

    token: int
    proposer: int
    probs: Tensor
    place: int
    confidence: float

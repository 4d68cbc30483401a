"""Drafts: tokens not yet decided."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Draft:
    """One drafted token. `proposer` is the lane that drew it, `probs` [vocab] what from; None where it stands by the
    token alone, in coupled verification and at temperature 0.

    place: how many undecided drafts stood before it. confidence: the proposer's own probability of the token, before
    the target's transforms.
    """

    token: int
    proposer: int
    probs: Tensor | None
    place: int
    confidence: float

"""Draft-length control: a proposer goes on as long as its drafts are likely enough to be accepted for one more to
pay."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.counts import Average
from ..core.tokens import Draft

# The longest block.
MOST_DRAFTED = 16
# The threshold where nothing was measured.
FLOOR = 0.3
# Drafts are binned by their proposer's confidence, at these edges.
_EDGES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
# The acceptance of a draft that its proposer held to be impossible, and of a sure one, before any was verified.
_LEAST, _MOST = 0.55, 1.0
# Pseudo-counts of these priors, and the least weight of a new verdict.
_PRIOR_COUNT, _RATE = 8, 0.005
# Drafts whose verdicts change nothing yet: so many of those before, and no more than that.
_UNTOLD, _MOST_UNTOLD = 1 / 32, 16

_MIDDLES = [(low + high) / 2 for low, high in zip((0.0, *_EDGES), (*_EDGES, 1.0), strict=True)]
_MIDDLE = (_LEAST + _MOST) / 2
PRIOR = tuple(_LEAST + (_MOST - _LEAST) * middle for middle in _MIDDLES)
"""Acceptance in each bin of confidence, before any draft was verified."""


@dataclass(frozen=True)
class StopRule:
    """Stops a proposer once the probability that all its drafts are accepted is below `floor`.

    It reads nothing but drafts already drawn, so that the length of a block is a stopping rule, under which every
    verification keeps its law. (A threshold on predicted acceptance: SpecDec++, Huang et al. 2024. Here the prediction
    is the acceptance measured at the same confidence.) acceptances: by bin of confidence. acceptance: of a draft behind
    one that stands. overhead: what a block takes without drafts, over what each draft adds.

    Texts have easy stretches, so that behind a block that is likely to stand comes another such one. So one more draft
    must also give more, for what it takes, than the block so far: else the next block is better begun sooner. A first
    one is always drafted, by which its cost becomes known.
    """

    floor: float = FLOOR
    acceptances: tuple[float, ...] = PRIOR
    acceptance: float = 1.0
    overhead: float = math.inf

    def goes_on(self, drafts: Sequence[Draft]) -> bool:
        """Whether one more is worth drafting behind these."""
        if not drafts or len(drafts) >= MOST_DRAFTED:
            return not drafts
        stand = tokens = 1.0
        for draft in drafts:
            assert draft.confidence is not None, "a schedule that paces its drafts reads their confidence"
            stand *= self.acceptances[_bin(draft.confidence)]
            tokens += stand
        return stand >= self.floor and stand * self.acceptance * (self.overhead + len(drafts)) >= tokens


class AcceptanceByConfidence:
    """The measured acceptance of drafts, by their proposer's confidence.

    A bin begins with the prior's acceptance at the level of all drafts: how many were rejected, over how many the
    prior expected to be. That level begins with the acceptance that rows showed, 1 - TV, where they were compared.
    """

    def __init__(self) -> None:
        self._bins = [Average(_RATE) for _ in PRIOR]
        self._rejected, self._expected = (Average(_RATE, 1 - _MIDDLE, _PRIOR_COUNT) for _ in range(2))
        self._num_added = self._num_given = 0

    @property
    def has_begun(self) -> bool:
        """Whether a draft was verified, here or where this was restored from."""
        return self._rejected.count > _PRIOR_COUNT

    def expect(self, acceptance: float) -> None:
        """Begin at the level of drafts of which so many are accepted, before any was verified."""
        self._rejected.value = 1 - acceptance

    def add(self, confidence: float, *, is_accepted: bool) -> None:
        """A draft of this confidence was verified."""
        index = _bin(confidence)
        self._bins[index].add(float(is_accepted))
        self._rejected.add(float(not is_accepted))
        self._expected.add(1 - PRIOR[index])
        self._num_added += 1

    def news(self) -> tuple[float, ...] | None:
        """The acceptance in each bin, where enough drafts were verified since it was last given to change it."""
        if self._num_added <= self._num_given + min(_MOST_UNTOLD, self._num_given * _UNTOLD):
            return None
        self._num_given = self._num_added
        return self.values

    @property
    def values(self) -> tuple[float, ...]:
        """The acceptance in each bin."""
        level = self._rejected.value / self._expected.value
        priors = [max(0.0, 1 - level * (1 - value)) for value in PRIOR]
        return tuple(
            prior + (own.value - prior) * own.count / (own.count + _PRIOR_COUNT)
            for prior, own in zip(priors, self._bins, strict=True)
        )

    def state(self) -> list[tuple[float, int]]:
        """What was measured, in JSON's types."""
        return [average.state for average in (*self._bins, self._rejected, self._expected)]

    def restore(self, state: Sequence[tuple[float, int]]) -> None:
        """Take over what `state` gave."""
        if len(state) != len(PRIOR) + 2:
            raise ValueError(f"{len(state)} means of acceptance by confidence, and there are {len(PRIOR) + 2}")
        *self._bins, self._rejected, self._expected = (Average(_RATE, *each) for each in state)


def _bin(confidence: float) -> int:
    return bisect.bisect_left(_EDGES, confidence)

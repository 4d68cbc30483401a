"""How far a drafter goes: on, as long as what it has drafted is likely enough to stand for one more to pay."""

import bisect
import math
from collections.abc import Sequence as Values

from ..core.counts import Average
from ..core.drafts import Draft

# The longest block.
MOST_DRAFTED = 16
# Unless a planner says better: drafting stops where all drafts stand with less than this probability.
FLOOR = 0.3
# Drafts are told apart by their proposers' confidence, between these.
_EDGES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
# What a draft is held to do until verdicts say better: a token that its proposer held to be impossible, and a sure one.
_LEAST, _MOST = 0.55, 1.0
# As many verdicts as that is worth, and how much a new one counts at least.
_PRIOR_COUNT, _RATE = 4, 0.005


class Pace:
    """Stops a drafter once the probability that all its drafts stand is below `floor`.

    It looks at drafts already drawn and at verdicts already spoken alone, so that the length of a block is a stopping
    rule, under which every verification keeps its law. (A threshold on predicted acceptance: SpecDec++, Huang et al.
    2024. Here what is predicted is what was seen at the same confidence, and a planner sets the threshold.)
    """

    def __init__(self) -> None:
        self.floor = FLOOR
        middles = [(low + high) / 2 for low, high in zip((0.0, *_EDGES), (*_EDGES, 1.0), strict=True)]
        self._stood = [Average(_RATE, _LEAST + (_MOST - _LEAST) * middle, _PRIOR_COUNT) for middle in middles]

    def goes_on(self, drafts: Values[Draft]) -> bool:
        """Whether one more is worth drafting behind these."""
        if len(drafts) >= MOST_DRAFTED:
            return False
        return math.prod(self._at(draft.confidence).value for draft in drafts) >= self.floor

    def learn(self, confidence: float, *, is_accepted: bool) -> None:
        """What became of a draft of this confidence."""
        self._at(confidence).add(float(is_accepted))

    def _at(self, confidence: float) -> Average:
        return self._stood[bisect.bisect_left(_EDGES, confidence)]

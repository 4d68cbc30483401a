"""What calls cost, by the number of tokens that they feed."""

import bisect
import math
from dataclasses import dataclass, field

from ..core.counts import Average

RATE = 0.2
# Up to here every number of tokens is told apart; beyond, four in each doubling.
MOST_EXACT = 16
# A call takes at most so many times what such calls took: more is a stall of the machine, and no cost of the call.
STALL, NUM_BEFORE_STALLS = 3, 3


@dataclass
class _Cell:
    num_tokens: Average = field(default_factory=lambda: Average(RATE))
    seconds: Average = field(default_factory=lambda: Average(RATE))


@dataclass
class Costs:
    """Seconds of a call by lane and by tokens, those of all texts in it together.

    That few tokens of many texts cost about what many tokens of few do was measured: a call reads all weights once,
    and multiplies each token with them.
    """

    _cells: dict[int, dict[int, _Cell]] = field(default_factory=dict)
    # By lane, tokens and seconds of its cells in order, from when they were asked for until there is a new call.
    _known: dict[int, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, lane: int, num_tokens: int, seconds: float) -> None:
        cell = self._cells.setdefault(lane, {}).setdefault(_key(num_tokens), _Cell())
        if cell.seconds.count >= NUM_BEFORE_STALLS:
            seconds = min(seconds, STALL * cell.seconds.value)
        cell.num_tokens.add(num_tokens)
        cell.seconds.add(seconds)
        self._known.pop(lane, None)

    def seconds(self, lane: int, num_tokens: float) -> float:
        """On the line between the two nearest that were measured; below all, the least; above, on the line through the
        least and the most, and in proportion if there is but one.

        0 for a lane that was never called.
        """
        known = self._known.get(lane)
        if known is None:
            cells = self._cells.get(lane, {}).values()
            known = self._known[lane] = sorted((cell.num_tokens.value, cell.seconds.value) for cell in cells)
        if not known:
            return 0.0
        index = bisect.bisect_left(known, (num_tokens,))
        if index == 0:
            return known[0][1]
        if len(known) == 1:
            return known[0][1] * num_tokens / known[0][0]
        low, high = (known[index - 1], known[index]) if index < len(known) else (known[0], known[-1])
        line = low[1] + (high[1] - low[1]) * (num_tokens - low[0]) / (high[0] - low[0])
        return line if index < len(known) else max(line, high[1])

    def seconds_more(self, lane: int, num_tokens: int) -> float:
        """That a token more takes in a call of about so many."""
        return max(0.0, self.seconds(lane, 2 * num_tokens) - self.seconds(lane, num_tokens)) / num_tokens


def _key(num_tokens: int) -> int:
    return num_tokens if num_tokens <= MOST_EXACT else MOST_EXACT + math.ceil(4 * math.log2(num_tokens / MOST_EXACT))

"""The cost of forward passes, by the number of tokens that they feed, and of the engine's own work in a round."""

import bisect
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from ..core.counts import Average
from ..core.policy import Round

# The engine's own work in a round stands beside the runners' passes: where positions are decided, by their number, and
# where none are, since sequences only draft, by the number of sequences.
DECIDING, DRAFTING = -1, -2
RATE = 0.2
# Up to here every number of tokens has a cell of its own; beyond, four share a doubling.
MOST_EXACT = 16
# Once a cell has 32 measurements, one pass in 8 is recorded: to record one is work in every round.
NUM_WELL_KNOWN, RECORD_ONE_IN = 32, 8
# Clip a pass to 3 times the mean of its cell, once that has 3 measurements: more is a stall of the machine.
STALL, NUM_BEFORE_STALLS = 3, 3


@dataclass
class _Cell:
    """Mean tokens and seconds of the passes of about one size. num_passes: those that were not recorded included."""

    num_passes: int = 0
    num_tokens: Average = field(default_factory=lambda: Average(RATE))
    seconds: Average = field(default_factory=lambda: Average(RATE))


class Costs:
    """Seconds of a forward pass by its runner and by tokens, those of all lanes and sequences in it together.

    A runner is named by the first lane that it serves. Measured: few tokens of many sequences cost about what many
    tokens of few do, since a pass reads all weights once and multiplies each token with them. So do positions that the
    engine decides, of which it has some work for a round and some for each.
    """

    def __init__(self) -> None:
        self._cells: dict[int, dict[int, _Cell]] = defaultdict(dict)
        # By lane, tokens and seconds of its cells, sorted by tokens, of those that were asked for since the last pass.
        self._lines: dict[int, list[tuple[float, float]]] = {}

    def add(self, lane: int, num_tokens: int, seconds: float) -> None:
        """A forward pass of this lane's runner took so long."""
        cells, key = self._cells[lane], _key(num_tokens)
        cell = cells.get(key)
        if cell is None:
            cell = cells[key] = _Cell()
        cell.num_passes += 1
        if cell.num_passes > NUM_WELL_KNOWN and cell.num_passes % RECORD_ONE_IN:
            return
        if cell.seconds.count >= NUM_BEFORE_STALLS:
            seconds = min(seconds, cell.seconds.value + (STALL - 1) * abs(cell.seconds.value))
        cell.num_tokens.add(num_tokens)
        cell.seconds.add(seconds)
        self._lines.pop(lane, None)

    def add_round(self, done: Round, learning_seconds: float = 0.0) -> None:
        """The engine's own time of a round, less what went into learning. Reading a prompt is no part of any cycle."""
        if not done.has_prefill:
            work, size = (DECIDING, done.num_decided) if done.num_decided else (DRAFTING, done.num_moved)
            self.add(work, size, done.seconds - done.seconds_in_models - learning_seconds)

    def put(self, lane: int, num_tokens: int, seconds: float, count: int) -> None:
        """So many passes of this size took so long, each."""
        cell = _Cell(num_tokens=Average(RATE, num_tokens, count), seconds=Average(RATE, seconds, count))
        self._cells[lane][_key(num_tokens)] = cell
        self._lines.pop(lane, None)

    def state(self) -> list[Any]:
        """What was measured, in JSON's types."""
        return [
            (lane, key, cell.num_tokens.state, cell.seconds.state)
            for lane, cells in self._cells.items()
            for key, cell in cells.items()
        ]

    def restore(self, state: list[Any]) -> None:
        """Take over what `state` gave, in place of what was measured here."""
        self._cells.clear()
        self._lines.clear()
        for lane, key, tokens, seconds in state:
            self._cells[lane][key] = _Cell(num_tokens=Average(RATE, *tokens), seconds=Average(RATE, *seconds))

    def is_known(self, lane: int) -> bool:
        """Whether a pass of this runner was measured."""
        return lane in self._cells

    def has_one_size(self, lane: int) -> bool:
        """Whether passes of this runner were measured with one number of tokens alone."""
        return len(self._cells.get(lane, ())) == 1

    def seconds(self, lane: int, num_tokens: float, *, is_hoped: bool = False) -> float:
        """Interpolated between the two nearest sizes that were measured. Below all, the least; above, on the line
        through the least and the most, and in proportion if there is but one, or `is_hoped`, no more than that. 0 for a
        lane that was never fed."""
        if not self.is_known(lane):
            return 0.0
        known = self._line(lane)
        index = bisect.bisect_left(known, (num_tokens,))
        if index == 0 or (len(known) == 1 and is_hoped):
            return known[0][1]
        if len(known) == 1:
            return known[0][1] * num_tokens / known[0][0]
        low, high = (known[index - 1], known[index]) if index < len(known) else (known[0], known[-1])
        line = low[1] + (high[1] - low[1]) * (num_tokens - low[0]) / (high[0] - low[0])
        return line if index < len(known) else max(line, high[1])

    def _line(self, lane: int) -> list[tuple[float, float]]:
        """Tokens and seconds of the lane's cells, sorted by tokens."""
        known = self._lines.get(lane)
        if known is None:
            cells = self._cells[lane].values()
            known = self._lines[lane] = sorted((cell.num_tokens.value, cell.seconds.value) for cell in cells)
        return known

    def seconds_more(self, lane: int, num_tokens: int) -> float:
        """Seconds that one token more takes in a pass of about so many."""
        return max(0.0, self.seconds(lane, 2 * num_tokens) - self.seconds(lane, num_tokens)) / num_tokens


def _key(num_tokens: int) -> int:
    return num_tokens if num_tokens <= MOST_EXACT else MOST_EXACT + math.ceil(4 * math.log2(num_tokens / MOST_EXACT))

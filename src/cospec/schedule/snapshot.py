"""What beliefs say at one decision of `auto`: each number computed once, however many plans' formulas ask for it."""

from collections.abc import Callable

from .beliefs import LAST_PLACE, Beliefs, Pair


def as_measured(beliefs: Beliefs, pair: Pair) -> float:
    """Nothing is added to a measured acceptance."""
    return 0.0


def as_hoped(beliefs: Beliefs, pair: Pair) -> float:
    """The optimism bonus of a pair, less with each comparison (an upper confidence bound)."""
    return beliefs.optimism(*pair)


def as_feared(beliefs: Beliefs, pair: Pair) -> float:
    """The same bonus, taken off (a lower confidence bound)."""
    return -beliefs.optimism(*pair)


def at_best(beliefs: Beliefs, pair: Pair) -> float:
    """Every draft is accepted. What a plan is not worth then it never is."""
    return 1.0


class Snapshot:
    """Estimates for the formulas.

    bonus: added to acceptances, which end at 0 and 1; where it is hoped for, costs of which little is known are hoped
    to be low. asked: the pairs whose acceptance was asked for.
    """

    def __init__(self, beliefs: Beliefs, bonus: Callable[[Beliefs, Pair], float] = as_measured) -> None:
        self.num_members = beliefs.num_members
        self.asked: set[Pair] = set()
        self._beliefs, self._bonus = beliefs, bonus
        self._seconds: dict[tuple[int, float, float], float] = {}
        self._engine_seconds: dict[tuple[float, float], float] = {}
        self._acceptances: dict[Pair, list[float]] = {}

    def server(self, lane: int) -> int:
        return self._beliefs.server(lane)

    def seconds(self, lane: int, num_tokens: float, share: float = 1.0) -> float:
        key = (lane, num_tokens, share)
        known = self._seconds.get(key)
        if known is None:
            is_hoped = self._bonus in (as_hoped, at_best)
            known = self._seconds[key] = self._beliefs.seconds(lane, num_tokens, share, is_hoped=is_hoped)
        return known

    def engine_seconds(self, num_decided: float, share: float = 1.0) -> float:
        known = self._engine_seconds.get((num_decided, share))
        if known is None:
            known = self._engine_seconds[num_decided, share] = self._beliefs.engine_seconds(num_decided, share)
        return known

    def acceptance(self, proposer: int, target: int | None, place: int | None = None) -> float:
        pair = Pair(proposer, target)
        self.asked.add(pair)
        known = self._acceptances.get(pair)
        if known is None:
            bonus = self._bonus(self._beliefs, pair)
            known = [max(0.0, min(1.0, value + bonus)) for value in self._beliefs.acceptances_of(pair)]
            self._acceptances[pair] = known
        return known[0] if place is None else known[min(place, LAST_PLACE) + 1]

    def optimism(self, proposer: int, target: int) -> float:
        return self._beliefs.optimism(proposer, target)

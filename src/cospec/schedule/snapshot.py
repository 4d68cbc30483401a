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


class Prices:
    """What passes and the engine's own work cost at one decision, which snapshots with unlike acceptances share."""

    def __init__(self, beliefs: Beliefs) -> None:
        self._beliefs = beliefs
        self._seconds: dict[tuple[int, float, float, bool], float] = {}
        self._engine_seconds: dict[tuple[float, float], float] = {}

    def seconds(self, lane: int, num_tokens: float, share: float, *, is_hoped: bool) -> float:
        # Where several sizes were measured there is nothing to hope for.
        is_hoped = is_hoped and self._beliefs.costs.has_one_size(self._beliefs.server(lane))
        key = (lane, num_tokens, share, is_hoped)
        known = self._seconds.get(key)
        if known is None:
            known = self._seconds[key] = self._beliefs.seconds(lane, num_tokens, share, is_hoped=is_hoped)
        return known

    def engine_seconds(self, num_decided: float, share: float) -> float:
        key = (num_decided, share)
        known = self._engine_seconds.get(key)
        if known is None:
            known = self._engine_seconds[key] = self._beliefs.engine_seconds(num_decided, share)
        return known


class Snapshot:
    """Estimates for the formulas.

    bonus: added to acceptances, which end at 0 and 1; where it is hoped for, costs of which little is known are hoped
    to be low. prices: those of the decision; None for what is known now. asked: the pairs whose acceptance was asked
    for.
    """

    def __init__(
        self,
        beliefs: Beliefs,
        bonus: Callable[[Beliefs, Pair], float] = as_measured,
        prices: Prices | None = None,
    ) -> None:
        self.num_members = beliefs.num_members
        self.asked: set[Pair] = set()
        self._beliefs, self._bonus, self._is_hoped = beliefs, bonus, bonus in (as_hoped, at_best)
        self._prices = prices or Prices(beliefs)
        self._acceptances: dict[Pair, list[float]] = {}

    def server(self, lane: int) -> int:
        return self._beliefs.server(lane)

    def seconds(self, lane: int, num_tokens: float, share: float = 1.0) -> float:
        return self._prices.seconds(lane, num_tokens, share, is_hoped=self._is_hoped)

    def engine_seconds(self, num_decided: float, share: float = 1.0) -> float:
        return self._prices.engine_seconds(num_decided, share)

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

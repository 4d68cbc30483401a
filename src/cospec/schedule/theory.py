"""What a schedule should reach: tokens and seconds of one cycle, from acceptance rates and the cost of forward passes.

Leviathan et al. (2023) and Fu et al. (2025) take acceptances as independent from position to position, alpha =
1 - TV(q, p). Here a draft's may depend on its place in the block, given that those before it were accepted: texts have
easy stretches, so that long blocks are accepted more often than alpha ^ gamma says. With equal acceptances the formulas
are theirs. Each schedule's own formula stands in its `cycle`.
"""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class Estimates(Protocol):
    """What the formulas take as given. Lanes by index; `target` is a member's, or None for r."""

    @property
    def num_members(self) -> int: ...

    def server(self, lane: int) -> int:
        """The first of the lanes that are fed in one forward pass with this one, since one runner serves them: prompts
        of one model, or a base and its adapters. Itself where each lane has a runner of its own."""
        ...

    def seconds(self, lane: int, num_tokens: float, share: float = 1.0) -> float:
        """A sequence's part of a forward pass of this lane's runner that feeds so many tokens, those of all its lanes
        together, to each of the sequences in it: to all that are live, or to those few whose turn it is, each with the
        probability `share`."""
        ...

    def engine_seconds(self, num_decided: float, share: float = 1.0) -> float:
        """A sequence's part of the engine's own time in a round, outside the forward passes. num_decided: positions of
        it that the round decides: drafts that are verified, and one more; 0 for a round that only drafts."""
        ...

    def acceptance(self, proposer: int, target: int | None, place: int | None = None) -> float:
        """1 - TV between the proposer's distribution and the target's: at this place of a block, or at any."""
        ...


class Measurements(Estimates, Protocol):
    """Estimates that know how sure they are."""

    def optimism(self, proposer: int, target: int) -> float:
        """How much better than measured a drafter may be for a member: an optimism bonus, less with each comparison."""
        ...


@dataclass(frozen=True)
class Cycle:
    """What a schedule repeats: from one sheet without drafts to the next, on average."""

    tokens: float
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


def sequences_a_pass(num_live: int, share: float) -> float:
    """How many of the live sequences are in a forward pass on average, where each is with the probability `share` and
    some sequence is."""
    return num_live * share / (1 - (1 - share) ** num_live)


def seconds_of(estimates: Estimates, tokens: Mapping[int, float], share: float = 1.0) -> float:
    """A sequence's part of a round that feeds so many tokens to each of these lanes: one forward pass a runner, which
    reads its weights once for all the rows of its lanes."""
    together: dict[int, float] = defaultdict(float)
    for lane, num_tokens in tokens.items():
        together[estimates.server(lane)] += num_tokens
    return sum(estimates.seconds(lane, num_tokens, share) for lane, num_tokens in together.items())


def seconds_of_all(estimates: Estimates, num_tokens: float, *, without: int | None = None, share: float = 1.0) -> float:
    """The same of so many tokens to every member, or to all but one."""
    return seconds_of(estimates, {i: num_tokens for i in range(estimates.num_members) if i != without}, share)


def served_together(estimates: Estimates, lanes: Sequence[int]) -> list[list[int]]:
    """The lanes by the runner that serves them."""
    together: dict[int, list[int]] = defaultdict(list)
    for lane in lanes:
        together[estimates.server(lane)].append(lane)
    return [*together.values()]


def standing(alphas: Sequence[float]) -> list[float]:
    """The probabilities that the first 0, 1, ..., gamma drafts are all accepted, from the acceptance at each place.

    Their sum is the tokens that a block gives, the one after it included: 1 + alpha + ... + alpha^gamma.
    """
    return list(itertools.accumulate(alphas, lambda all_before, alpha: all_before * alpha, initial=1.0))


def chances_of_settled(stand: Sequence[float]) -> dict[int, float]:
    """How many tokens a block gives -> probability: the accepted ones and the one behind them."""
    return {k: at_least - more for k, (at_least, more) in enumerate(zip(stand, [*stand[1:], 0.0], strict=True), 1)}

"""What schedules that draft whole blocks have in common: how long a block is, and what its length is worth."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from ..core.sheet import Sheet
from .base import Schedule
from .drafting import MOST_DRAFTED, StopRule
from .plan import DEFAULT_GAMMA, Plan
from .theory import Cycle, Estimates, Measurements, standing

# A paced block is taken to do at least as well as the best of these fixed lengths.
PACED_GAMMAS = (1, 2, 4, 8, 12)
# Bounds of the threshold that tuning sets.
LEAST_FLOOR, MOST_FLOOR = 0.02, 0.95


@dataclass(frozen=True, kw_only=True)
class BlockDrafting(Schedule):
    """Drafts blocks of `gamma` tokens at most; stop: ends a block earlier."""

    can_be_paced = True

    gamma: int = DEFAULT_GAMMA
    stop: StopRule | None = None

    @property
    def reads_confidence(self) -> bool:
        return self.stop is not None

    def is_block_full(self, sheet: Sheet) -> bool:
        """Whether no more is to be drafted behind the sheet's drafts. The last token of a block comes from r for free,
        so the last one allowed is never drafted."""
        is_long = len(sheet.drafts) >= self.gamma or sheet.num_draftable <= 1
        return is_long or (self.stop is not None and not self.stop.goes_on(sheet.drafts))

    def winding_down(self) -> Self:
        return replace(self, gamma=0)

    def cycle(self, estimates: Estimates) -> Cycle:
        """A block of `gamma` tokens, or of the best length where that is paced."""
        return self.best_block(estimates)[1]

    def tuned(self, measured: Measurements, *, speed: float, best: float) -> Self:
        """Set the threshold to the survival probability at which one more draft yields exactly the plan's mean tokens
        per second.

        A draft more gives (probability that all before stand) * acceptance tokens, and takes its own seconds. (A
        stretch pays if it gives more than the average: the marginal value theorem of renewal rewards.)
        """
        if self.stop is None:
            return self
        gamma, cycle = self.best_block(measured)
        one_more, acceptance = self.seconds_of_one_more(gamma, measured), max(self.acceptance(measured, None), 1e-3)
        stop = replace(
            self.stop,
            floor=min(MOST_FLOOR, max(LEAST_FLOOR, speed * one_more / acceptance)),
            acceptance=self.acceptance(measured, 1),
            overhead=max(0.0, cycle.seconds / one_more - gamma) if one_more > 0 else math.inf,
        )
        return replace(self, stop=stop)

    def expected_acceptance(self, estimates: Estimates) -> float | None:
        return None if self.stop is None else self.acceptance(estimates, None)

    def with_acceptances(self, by_confidence: Sequence[float]) -> Self:
        if self.stop is None:
            return self
        return replace(self, stop=replace(self.stop, acceptances=tuple(by_confidence)))

    def best_block(self, estimates: Estimates) -> tuple[int, Cycle]:
        """The length of the blocks that give the most tokens a second, of those that may be had, and their cycle."""
        gammas = (self.gamma,) if self.stop is None else PACED_GAMMAS
        stand = standing([self.acceptance(estimates, place) for place in range(max(gammas))])
        cycles = {gamma: self.cycle_of(stand[: gamma + 1], estimates) for gamma in gammas}
        return max(cycles.items(), key=lambda item: item[1].speed)

    def seconds_of_one_more(self, gamma: int, estimates: Estimates) -> float:
        """What one more draft costs all who are fed it, and the engine, in a block of about `gamma`."""

        def deciding(num_tokens: int) -> float:
            return self.scoring_seconds(num_tokens, estimates) + estimates.engine_seconds(num_tokens)

        return self.drafting_seconds(estimates) + max(0.0, deciding(gamma + 1) - deciding(1)) / gamma

    @abstractmethod
    def acceptance(self, estimates: Estimates, place: int | None) -> float:
        """Of a draft at this place by whatever it is verified against."""

    @abstractmethod
    def drafting_seconds(self, estimates: Estimates) -> float:
        """Seconds that one draft takes, of the proposers and of the engine."""

    @abstractmethod
    def cycle_of(self, stand: Sequence[float], estimates: Estimates) -> Cycle:
        """The cycle of a block whose first 0, 1, ..., gamma drafts are all accepted with these probabilities."""

    @abstractmethod
    def scoring_seconds(self, num_tokens: int, estimates: Estimates) -> float:
        """Seconds of the members that are fed so many tokens that others drafted."""


def block_length(plan: Plan, *, is_run: bool = False) -> tuple[int, StopRule | None]:
    """gamma and stop rule of a plan of block drafting. is_run: whether the proposer has several tokens at once, and
    ends a run itself."""
    if plan.is_paced:
        return MOST_DRAFTED, StopRule()
    default = MOST_DRAFTED if is_run else DEFAULT_GAMMA
    return plan.gammas[0] if plan.gammas else default, None


def is_being_verified(sheet: Sheet, *, but: int) -> bool:
    """Whether a member other than `but` was fed some of the drafts."""
    return any(i != but and sheet.lanes[i].seen > sheet.position for i in sheet.members)

"""`heuristic`: a drafter drafts a block, all members score it, and the outcome sets the length of the next one."""

import math
from collections.abc import Sequence
from dataclasses import replace

from cospec import Cycle, Estimates, InvalidSchedule, Plan, Schedule, Setting, Sheet, Token
from cospec.schedule.theory import seconds_of_all


class Heuristic(Schedule):
    """Blocks grow by two tokens after one that was accepted whole and shrink by one after a rejection, as under
    `num_assistant_tokens_schedule="heuristic"` in transformers.

    lane: the drafter's. gamma: the length of a sequence's first block.
    """

    name = "heuristic"

    def __init__(self, lane: int, gamma: int = 4) -> None:
        self.lane, self.gamma = lane, gamma
        self._gammas: dict[Sheet, int] = {}

    def turn(self, sheet: Sheet) -> Sequence[int]:
        return [self.lane] if self._drafts_more(sheet) else super().turn(sheet)

    def proposer(self, sheet: Sheet) -> int | None:
        return self.lane if self._drafts_more(sheet) and sheet.lanes[self.lane].has(sheet.frontier) else None

    def _drafts_more(self, sheet: Sheet) -> bool:
        # The members' rows settle one token behind the block, so the last one allowed is not drafted.
        is_full = len(sheet.drafts) >= self._gammas.get(sheet, self.gamma) or sheet.num_draftable <= 1
        return not is_full and not sheet.has_declined(self.lane)

    def on_settled(self, sheet: Sheet, tokens: Sequence[Token]) -> None:
        gamma = self._gammas.get(sheet, self.gamma)
        if any(token.rejected is not None for token in tokens):
            self._gammas[sheet] = max(1, gamma - 1)
        elif any(token.proposer is not None for token in tokens):
            self._gammas[sheet] = gamma + 2

    def on_end(self, sheet: Sheet) -> None:
        self._gammas.pop(sheet, None)

    @classmethod
    def make(cls, plan: Plan, setting: Setting) -> "Heuristic":
        """By the first drafter, unless the plan names another."""
        if plan.first is not None or len(plan.gammas) > 1:
            raise InvalidSchedule("heuristic takes one gamma, that of the first block, and no first")
        return cls(setting.drafter_of(plan), *plan.gammas)

    @classmethod
    def candidates(cls, setting: Setting) -> Sequence[Plan]:
        return [replace(cls.plan(), proposer=name) for name in setting.drafters]

    def cycle(self, estimates: Estimates) -> Cycle:
        """At the length where growth and shrinkage balance, 2 alpha^gamma = 1 - alpha^gamma."""
        alpha = min(max(estimates.acceptance(self.lane, None), 0.01), 0.99)
        gamma = max(1.0, math.log(1 / 3) / math.log(alpha))
        tokens = (1 - alpha ** (gamma + 1)) / (1 - alpha)
        drafting = gamma * (estimates.seconds(self.lane, 1) + estimates.engine_seconds(0))
        deciding = seconds_of_all(estimates, gamma + 1) + estimates.engine_seconds(gamma + 1)
        return Cycle(tokens, drafting + deciding)

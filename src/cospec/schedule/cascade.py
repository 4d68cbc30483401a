"""`cascade`: a drafter drafts for one member, whose tokens are drafts for all: speculation in two stages."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..core.sheet import Sheet
from ..errors import InvalidSchedule
from .base import Schedule
from .plan import DEFAULT_GAMMA, Plan, Setting
from .theory import Cycle, Estimates, chances_of_settled, seconds_of_all, standing

# How many tokens of its member are verified at a time by default.
DEFAULT_DEPTH = 6
# Tokens a turn of the drafter, and depth, that `auto` weighs.
_STAGES = ((3, 4), (6, 8))


@dataclass(frozen=True)
class Cascade(Schedule):
    """The drafter proposes `gamma` tokens a turn. Member `first` verifies them against its own distribution, so that
    what is left is a sample of that; once it has `depth` such tokens, the other members are fed and r verifies them.

    The first stage accepts often because it has one model to please, the second because a member is close to r.
    (In stages for one target: Spector & Re 2023.)
    """

    drafter: int
    gamma: int
    first: int
    depth: int
    name = "cascade"

    @property
    def reads_confidence(self) -> bool:
        return False

    def turn(self, sheet: Sheet) -> Sequence[int]:
        if self._is_deep(sheet):
            return [i for i in sheet.members if sheet.lanes[i].seen < sheet.frontier - 1]
        return [self.drafter if self._may_draft(sheet) else self.first]

    def proposer(self, sheet: Sheet) -> int | None:
        candidates = [self.first, *sheet.members]
        if not self._is_deep(sheet) and self._may_draft(sheet):
            candidates.append(self.drafter)
        return next((i for i in candidates if sheet.lanes[i].has(sheet.frontier)), None)

    def refiner(self, sheet: Sheet) -> int | None:
        has_rows = sheet.lanes[self.first].seen >= sheet.frontier
        return self.first if has_rows and sheet.num_refined < len(sheet.drafts) else None

    def _is_deep(self, sheet: Sheet) -> bool:
        is_full = sheet.num_refined >= self.depth or sheet.num_draftable <= 0
        return is_full and 0 < sheet.num_refined == len(sheet.drafts)

    def _may_draft(self, sheet: Sheet) -> bool:
        num_raw = len(sheet.drafts) - sheet.num_refined
        # The member's own token follows for free, so the last one allowed is left to it.
        return num_raw < self.gamma and sheet.num_draftable > 1 and not sheet.has_declined(self.drafter)

    @classmethod
    def make(cls, plan: Plan, setting: Setting) -> "Cascade":
        """Two gammas, the drafter's and the depth; `first` is the member of the first stage."""
        if len(setting.members) < 2:
            raise InvalidSchedule("cascade verifies for one member, then for all, and there is only one; use fixed")
        if len(plan.gammas) not in (0, 2):
            raise InvalidSchedule(
                "cascade takes two gammas, the drafter's tokens a turn and the member's tokens before all verify them, "
                f"got {list(plan.gammas)}"
            )
        gamma, depth = plan.gammas or (DEFAULT_GAMMA, DEFAULT_DEPTH)
        first = setting.members.index(plan.first or setting.members[0])
        return cls(setting.drafter_of(plan), gamma, first, depth)

    @classmethod
    def candidates(cls, setting: Setting) -> Sequence[Plan]:
        return [
            Plan(schedule="cascade", gamma=gammas, proposer=name, first=first)
            for name in setting.drafters
            for first in setting.members
            for gammas in _STAGES
        ]

    @classmethod
    def benchmarked(cls, setting: Setting) -> Plan | None:
        """None: `auto` weighs it, and no table has it."""
        return None

    @classmethod
    def verified(cls, setting: Setting) -> Sequence[Plan]:
        return [Plan(schedule="cascade", proposer=name) for name in setting.drafters]

    @classmethod
    def owners(cls, plan: Plan, setting: Setting) -> Sequence[int]:
        """The member of the first stage."""
        return [setting.members.index(plan.first or setting.members[0])] * len(setting.drafters)

    def winding_down(self) -> "Cascade":
        return replace(self, gamma=0, depth=0)

    def cycle(self, estimates: Estimates) -> Cycle:
        def stand(proposer: int, target: int | None, gamma: int) -> list[float]:
            return standing([estimates.acceptance(proposer, target, place) for place in range(gamma)])

        rounds, lengths = _first_stage(stand(self.drafter, self.first, self.gamma), self.depth)
        outer = stand(self.first, None, self.depth + self.gamma + 1)
        # Where all drafts of the member are accepted, the others' row proposes one more, which the next cycle verifies
        # and which is counted here as if it were a member's draft.
        tokens = sum(chance * (sum(outer[:length]) + outer[length + 1]) for length, chance in lengths.items())
        drafting = self.gamma * (estimates.seconds(self.drafter, 1) + estimates.engine_seconds(0))
        a_stage = drafting + estimates.seconds(self.first, self.gamma + 1) + estimates.engine_seconds(self.gamma)
        length = sum(chance * length for length, chance in lengths.items())
        scoring = seconds_of_all(estimates, length + 1, without=self.first) + estimates.engine_seconds(length + 1)
        return Cycle(tokens, rounds * a_stage + scoring)


def _first_stage(stand: Sequence[float], depth: int) -> tuple[float, dict[int, float]]:
    """Rounds until the member has `depth` tokens, and how many it then has, with their probabilities."""
    gains = chances_of_settled(stand)
    # at[f]: the probability that a round starts with f tokens.
    at = [0.0] * depth
    at[0] = 1.0
    final: dict[int, float] = {}
    for f in range(depth):
        for gain, chance in gains.items():
            if f + gain < depth:
                at[f + gain] += at[f] * chance
            else:
                final[f + gain] = final.get(f + gain, 0.0) + at[f] * chance
    return sum(at), final

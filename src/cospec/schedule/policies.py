"""The policies: each says for one sequence's sheet who is fed next, who proposes, and which cells settle a position.

A schedule changes nothing and knows no runner; the engine asks and acts. Lanes are given by index: the members', then
the drafters'.
"""

import itertools
from collections.abc import Callable
from collections.abc import Sequence as Values
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from ..core.sampling import Purpose
from ..core.sheet import Sequence
from .pace import Pace


class Schedule(Protocol):
    """The policy."""

    @property
    def name(self) -> str:
        """As a user writes it."""
        ...

    def turn(self, sequence: Sequence) -> Values[int]:
        """Lanes to be fed what they have not seen, in this round, as far as `reach` says."""
        ...

    def may_keep_up(self, sequence: Sequence) -> bool:
        """Whether members whose turn it is not may as well be fed what is settled: the next token is settled without
        a row of theirs."""
        ...

    def proposer(self, sequence: Sequence) -> int | None:
        """The lane whose bonus row proposes the token at the frontier, if one may."""
        ...

    def refiner(self, sequence: Sequence) -> int | None:
        """The member that takes over the drafters' drafts, if one does: it has a row for each of them."""
        ...

    def cells(self, sequence: Sequence, position: int) -> Values[int]:
        """The members whose rows settle this position."""
        ...

    def reach(self, sequence: Sequence, lane: int) -> int:
        """The last position that a lane's row is of use for now; what it was not fed before that can wait."""
        ...

    def may_be_left(self, sequence: Sequence) -> bool:
        """Whether another schedule may go on, where nothing is drafted: nothing was drawn that is still to decide."""
        ...


class OfAllMembers:
    """Positions are settled by all members' rows, drafts are refined by none, and a clean sheet is anybody's."""

    def may_keep_up(self, sequence: Sequence) -> bool:
        return False

    def refiner(self, sequence: Sequence) -> int | None:
        return None

    def reach(self, sequence: Sequence, lane: int) -> int:
        return sequence.frontier

    def may_be_left(self, sequence: Sequence) -> bool:
        return True

    def cells(self, sequence: Sequence, position: int) -> Values[int]:
        return sequence.members


@dataclass(frozen=True)
class Plain(OfAllMembers):
    """No drafts: feed every member the last token, settle, repeat. The baseline for every claim."""

    name = "plain"

    def turn(self, sequence: Sequence) -> Values[int]:
        return [i for i in sequence.members if not sequence.lanes[i].has(sequence.frontier)]

    def proposer(self, sequence: Sequence) -> int | None:
        return None


@dataclass(frozen=True)
class Fixed(OfAllMembers):
    """One proposer, a member or not, drafts `gamma` tokens; then the members that lack their rows are fed the block.

    one_by_one: a member a round, where the first one's row may settle a position alone. pace: stops it earlier.
    """

    lane: int
    gamma: int
    one_by_one: bool = False
    pace: Pace | None = None
    name = "fixed"

    def turn(self, sequence: Sequence) -> Values[int]:
        if self._num_to_draft(sequence) > 0:
            return [self.lane]
        # A member that proposed has its rows but for the bonus, and gets that with its next draft.
        needed = sequence.frontier - 1 if sequence.drafts else sequence.frontier
        lacking = [i for i in sequence.members if sequence.lanes[i].seen < needed]
        return lacking[:1] if self.one_by_one else lacking

    def proposer(self, sequence: Sequence) -> int | None:
        return (
            self.lane if self._num_to_draft(sequence) > 0 and sequence.lanes[self.lane].has(sequence.frontier) else None
        )

    def _num_to_draft(self, sequence: Sequence) -> int:
        # Who has begun to verify a block goes on with it, though a part of it is settled and there were room for more.
        if sequence.has_declined(self.lane) or _is_being_verified(sequence, but=self.lane):
            return 0
        if self.pace is not None and not self.pace.goes_on(sequence.drafts):
            return 0
        # The last token of a block comes from r for free, so the last one allowed is never drafted.
        return min(self.gamma - len(sequence.drafts), sequence.num_draftable - 1)


@dataclass(frozen=True)
class Alternate(OfAllMembers):
    """CoS (Fu et al. 2025, algorithms 1 and 2) for any number of members, `gammas[i]` tokens a turn of member i.

    The member with the fewest rows is fed all it has not seen, which scores the others' drafts; its bonus row is
    its own proposal. `first` starts afresh after a replacement; `is_lazy`: and whenever nothing is drafted, where its
    row may settle a position alone.
    """

    gammas: tuple[int, ...]
    first: int = 0
    is_lazy: bool = False
    name = "alternate"

    def turn(self, sequence: Sequence) -> Values[int]:
        if sequence.drafts and sequence.num_draftable > 0:
            last = sequence.drafts[-1].proposer
            if self._run_length(sequence, last) < self.gammas[last]:
                return [last]
        if self.is_lazy and not sequence.drafts and not sequence.lanes[self.first].has(sequence.frontier):
            return [self.first]
        return [min(sequence.members, key=lambda i: (sequence.lanes[i].seen, i != self.first, i))]

    def proposer(self, sequence: Sequence) -> int | None:
        if sequence.num_draftable <= 0:
            return None
        return next((i for i in sequence.members if sequence.lanes[i].has(sequence.frontier)), None)

    def _run_length(self, sequence: Sequence, proposer: int) -> int:
        """How many of the last drafts are this proposer's, one after the other."""
        backwards = reversed(sequence.drafts)
        return sum(1 for _ in itertools.takewhile(lambda draft: draft.proposer == proposer, backwards))


@dataclass(frozen=True)
class Cascade(OfAllMembers):
    """A drafter drafts for one member, whose tokens are drafts for all: speculation in two stages.

    The drafter proposes `gamma` tokens a turn. Member `first` verifies them against its own distribution, so that
    what is left is a sample of that; once it has `depth` such tokens, the other members are fed and r verifies them.
    The first stage accepts often because it has one model to please, the second because a member is close to r.
    (In stages for one target: Spector & Re 2023.)
    """

    drafter: int
    gamma: int
    first: int
    depth: int
    name = "cascade"

    def turn(self, sequence: Sequence) -> Values[int]:
        if self._is_deep(sequence):
            return [i for i in sequence.members if sequence.lanes[i].seen < sequence.frontier - 1]
        return [self.drafter if self._may_draft(sequence) else self.first]

    def proposer(self, sequence: Sequence) -> int | None:
        if sequence.num_draftable <= 0:
            return None
        candidates = [self.first, *sequence.members]
        if not self._is_deep(sequence) and self._may_draft(sequence):
            candidates.append(self.drafter)
        return next((i for i in candidates if sequence.lanes[i].has(sequence.frontier)), None)

    def refiner(self, sequence: Sequence) -> int | None:
        is_seen = sequence.lanes[self.first].seen >= sequence.frontier
        return self.first if is_seen and sequence.num_refined < len(sequence.drafts) else None

    def _is_deep(self, sequence: Sequence) -> bool:
        is_full = sequence.num_refined >= self.depth or sequence.num_draftable <= 0
        return is_full and sequence.num_refined == len(sequence.drafts)

    def _may_draft(self, sequence: Sequence) -> bool:
        num_raw = len(sequence.drafts) - sequence.num_refined
        # The member's own token follows for free, so the last one allowed is left to it.
        return num_raw < self.gamma and sequence.num_draftable > 1 and not sequence.has_declined(self.drafter)


class Assigned:
    """Which drafter drafts for which member: `lanes[i]` for member i, each one of `among`.

    A planner assigns them anew as it learns what their drafts are worth to a member.
    """

    def __init__(self, lanes: Values[int], among: Values[int] = ()) -> None:
        self.lanes = tuple(lanes)
        self.among = tuple(among) or tuple(dict.fromkeys(lanes))

    def assign(self, worth: Callable[[int, int], float]) -> None:
        """To each member the drafter that is worth the most to it; `worth` is of a drafter and a member."""
        by_member = [[worth(drafter, member) for drafter in self.among] for member in range(len(self.lanes))]
        self.lanes = tuple(self.among[own.index(max(own))] for own in by_member)


@dataclass(frozen=True)
class DrawnMember:
    """ME (Fu et al. 2026): a token of a mixture is a token of one member, drawn with the weights' probabilities.

    The other members catch up in one call when their turn comes, or as they are called for other texts. With drafters,
    `gamma` tokens are drafted first, each by the drafter of the member that is drawn for its position, and each
    position is verified against that member alone: given the draws the text is a chain of the members' distributions.
    The draw for a position is made once, and stands until the position is settled. Where a draft before it is rejected
    it is made anew: how far members were fed, and so what was measured, may have hung on the old one. pace: stops the
    drafters earlier.
    """

    weights: tuple[float, ...]
    drafters: Assigned | None = None
    gamma: int = 0
    pace: Pace | None = None
    name = "mixture"

    def turn(self, sequence: Sequence) -> Values[int]:
        drafter = self._drafter(sequence)
        return self.cells(sequence, sequence.position) if drafter is None else [drafter]

    def may_keep_up(self, sequence: Sequence) -> bool:
        """Where nothing is ever drafted, the one that is drawn settles the position in the round that feeds it."""
        return self.drafters is None

    def proposer(self, sequence: Sequence) -> int | None:
        drafter = self._drafter(sequence)
        return drafter if drafter is not None and sequence.lanes[drafter].has(sequence.frontier) else None

    def refiner(self, sequence: Sequence) -> int | None:
        return None

    def cells(self, sequence: Sequence, position: int) -> tuple[int]:
        uniform = sequence.draws.uniform(position, Purpose.MEMBER, sequence.epoch)
        return (next((i for i, reached in enumerate(self._reached[:-1]) if uniform < reached), len(self.weights) - 1),)

    def reach(self, sequence: Sequence, lane: int) -> int:
        """A member's last turn among the positions that are drafted, and the one behind them."""
        if lane not in sequence.members:
            return sequence.frontier
        positions = range(sequence.frontier, sequence.position, -1)
        return next((i for i in positions if lane in self.cells(sequence, i)), sequence.position)

    def may_be_left(self, sequence: Sequence) -> bool:
        """Behind drafts that all stood the next member is drawn already, and was looked at: it must have its turn."""
        return not sequence.ends_in_draft

    @cached_property
    def _reached(self) -> list[float]:
        return list(itertools.accumulate(self.weights))

    def _drafter(self, sequence: Sequence) -> int | None:
        """Who drafts the token at the frontier, if it is to be drafted."""
        if self.drafters is None or len(sequence.drafts) >= self.gamma or sequence.num_draftable <= 1:
            return None
        if self.pace is not None and not self.pace.goes_on(sequence.drafts):
            return None
        (member,) = self.cells(sequence, sequence.frontier)
        drafter = self.drafters.lanes[member]
        is_over = sequence.has_declined(drafter) or _is_being_verified(sequence, but=drafter)
        return None if is_over else drafter


def _is_being_verified(sequence: Sequence, but: int) -> bool:
    """Whether a member other than `but` was fed some of the drafts."""
    return any(i != but and sequence.lanes[i].seen > sequence.position for i in sequence.members)

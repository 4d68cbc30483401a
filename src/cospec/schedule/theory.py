"""What a schedule should reach: tokens and seconds of one cycle, from acceptance rates and costs per call.

Leviathan et al. (2023) and Fu et al. (2025) take acceptances as independent from position to position, alpha =
1 - TV(q, p). Here a draft's may depend on its place in the block, given that those before it stood: texts have easy
stretches, so that long blocks stand longer than alpha ^ gamma says. With equal acceptances the formulas are theirs.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence as Values
from dataclasses import dataclass
from typing import Protocol

from . import Alternate, Cascade, DrawnMember, Fixed, Plain, Schedule

# How many tokens of a member's backlog are told apart where members are drawn one by one.
MOST_BACKLOG = 8
# A proposer that goes as far as is likely to pay is taken to do at least as well as with the best of these.
PACED_GAMMAS = (1, 2, 3, 4, 6, 8, 12)


class Beliefs(Protocol):
    """What the formulas take as given. Lanes by index; `target` is a member's, or None for r."""

    @property
    def num_members(self) -> int: ...

    def seconds(self, lane: int, num_tokens: float, share: float = 1.0) -> float:
        """A text's part of a call that feeds so many tokens to each of the texts in it: to all, or to those few whose
        turn it is, each with the probability `share`."""
        ...

    def acceptance(self, proposer: int, target: int | None, place: int | None = None) -> float:
        """1 - TV between the proposer's distribution and the target's: where so many drafts stood, or anywhere."""
        ...


def texts_a_call(num_texts: int, share: float) -> float:
    """How many of the texts are in a call on average, where each is with the probability `share` and some text is."""
    return num_texts * share / (1 - (1 - share) ** num_texts)


@dataclass(frozen=True)
class Cycle:
    """What a schedule repeats: from one clean sheet to the next, on average."""

    tokens: float
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


def cycle(schedule: Schedule, beliefs: Beliefs) -> Cycle:
    """The schedule's cycle under these beliefs."""
    match schedule:
        case Plain():
            return Cycle(1.0, _together(beliefs, 1))
        case DrawnMember(weights=weights, drafters=None):
            return _drawn(weights, beliefs)
        case Fixed() | DrawnMember() if schedule.pace is not None:
            return _blocks_of(schedule, _best_gamma(schedule, beliefs), beliefs)
        case Fixed() | DrawnMember():
            return _blocks_of(schedule, schedule.gamma, beliefs)
        case Alternate():
            return _alternate(schedule, beliefs)
        case Cascade():
            return _cascade(schedule, beliefs)
    raise AssertionError(f"no theory of {schedule.name}")


@dataclass(frozen=True)
class Block:
    """What one more draft in a block is worth: its acceptance, and the seconds that it takes all who see it."""

    acceptance: float
    seconds_a_draft: float


def paced(schedule: Fixed | DrawnMember, beliefs: Beliefs) -> Block:
    """Of the block of the best length."""
    gamma = _best_gamma(schedule, beliefs)
    proposer = schedule.lane if isinstance(schedule, Fixed) else None
    members = [i for i in range(beliefs.num_members) if i != proposer]
    scoring = sum(
        _share_of(schedule, i) * (beliefs.seconds(i, gamma + 1) - beliefs.seconds(i, 1)) / gamma for i in members
    )
    acceptance = _acceptance(schedule, beliefs, place=None)
    return Block(acceptance, _drafting(schedule, beliefs) + max(0.0, scoring))


def _best_gamma(schedule: Fixed | DrawnMember, beliefs: Beliefs) -> int:
    """The length of the blocks that give the most tokens a second."""
    return max(PACED_GAMMAS, key=lambda gamma: _blocks_of(schedule, gamma, beliefs).speed)


def _share_of(schedule: Fixed | DrawnMember, member: int) -> float:
    """The share of the drafts that a member is fed: where members are drawn, it is not needed for all blocks."""
    if isinstance(schedule, Fixed):
        return 1.0
    return 1 - (1 - schedule.weights[member]) ** 2


def _acceptance(schedule: Fixed | DrawnMember, beliefs: Beliefs, place: int | None) -> float:
    """Of the proposer's drafts, by r or by the member that is drawn, whose drafter it is."""
    if isinstance(schedule, Fixed):
        return beliefs.acceptance(schedule.lane, None, place)
    assert schedule.drafters is not None
    drafters = enumerate(zip(schedule.weights, schedule.drafters.lanes, strict=True))
    return sum(weight * beliefs.acceptance(drafter, member, place) for member, (weight, drafter) in drafters)


def _drafting(schedule: Fixed | DrawnMember, beliefs: Beliefs) -> float:
    """Seconds a draft: a drafter that drafts for a share of the positions is fed what it missed with each."""
    if isinstance(schedule, Fixed):
        return beliefs.seconds(schedule.lane, 1)
    assert schedule.drafters is not None
    shares: dict[int, float] = defaultdict(float)
    for weight, drafter in zip(schedule.weights, schedule.drafters.lanes, strict=True):
        shares[drafter] += weight
    return sum(share * beliefs.seconds(drafter, 1 / share, share) for drafter, share in shares.items())


def _blocks_of(schedule: Fixed | DrawnMember, gamma: int, beliefs: Beliefs) -> Cycle:
    """Blocks of `gamma` drafts."""
    stand = standing([_acceptance(schedule, beliefs, place) for place in range(gamma)])
    if isinstance(schedule, DrawnMember):
        return _drawn_with_drafters(schedule, stand, beliefs)
    if schedule.lane < beliefs.num_members:
        return _fixed_by_member(schedule.lane, stand, beliefs)
    return _fixed_by_drafter(schedule.lane, stand, beliefs)


def standing(alphas: Values[float]) -> list[float]:
    """The probabilities that the first 0, 1, ..., gamma drafts all stand, from the acceptance at each place.

    Their sum is the tokens that a block gives, the one after it included: 1 + alpha + ... + alpha^gamma.
    """
    return list(itertools.accumulate(alphas, lambda all_before, alpha: all_before * alpha, initial=1.0))


def _standing(beliefs: Beliefs, proposer: int, target: int | None, gamma: int) -> list[float]:
    return standing([beliefs.acceptance(proposer, target, place) for place in range(gamma)])


def _settled(stand: Values[float]) -> dict[int, float]:
    """How many tokens a block gives -> probability: those that stand and the one behind."""
    return {k: at_least - more for k, (at_least, more) in enumerate(zip(stand, [*stand[1:], 0.0], strict=True), 1)}


def _together(beliefs: Beliefs, num_tokens: float, without: int | None = None, share: float = 1.0) -> float:
    return sum(beliefs.seconds(i, num_tokens, share) for i in range(beliefs.num_members) if i != without)


def _fixed_by_drafter(lane: int, stand: Values[float], beliefs: Beliefs) -> Cycle:
    gamma = len(stand) - 1
    return Cycle(sum(stand), gamma * beliefs.seconds(lane, 1) + _together(beliefs, gamma + 1))


def _fixed_by_member(lane: int, stand: Values[float], beliefs: Beliefs) -> Cycle:
    """The proposer is not fed its last draft with the others: the token after a block accepted whole takes its call.

    With that texts come out of step, and while some draft, others are scored.
    """
    gamma = len(stand) - 1
    calls = gamma + stand[gamma]
    drafting = calls * beliefs.seconds(lane, 1, calls / (calls + 1))
    return Cycle(sum(stand), drafting + _together(beliefs, gamma + 1, without=lane, share=1 / (calls + 1)))


def _alternate(schedule: Alternate, beliefs: Beliefs) -> Cycle:
    """A call settles a token; a rejection costs as many calls as stand between a draft and its verdict."""
    turn = sum(schedule.gammas)
    alpha = sum(gamma * beliefs.acceptance(i, None) for i, gamma in enumerate(schedule.gammas)) / turn
    call = sum(gamma * beliefs.seconds(i, turn / gamma, gamma / turn) for i, gamma in enumerate(schedule.gammas)) / turn
    return Cycle(1.0, call * (1 + (1 - alpha) * (turn - 1)))


def _drawn(weights: Values[float], beliefs: Beliefs) -> Cycle:
    """One call a token; a member drawn with probability w comes back after a geometric number of tokens."""
    return Cycle(1.0, sum(w * _catching_up(beliefs, i, w) for i, w in enumerate(weights)))


def _catching_up(beliefs: Beliefs, member: int, weight: float) -> float:
    chances = [weight * (1 - weight) ** k for k in range(MOST_BACKLOG)]
    chances[-1] += 1 - sum(chances)
    return sum(chance * beliefs.seconds(member, k, weight) for k, chance in enumerate(chances, start=1))


def _drawn_with_drafters(schedule: DrawnMember, stand: Values[float], beliefs: Beliefs) -> Cycle:
    """A member is called if it was drawn for one of the positions that are settled, and fed up to the last that it was
    drawn for: each token that is settled, sooner or later, and those of the drafts so fed that do not stand."""
    gamma, tokens = len(stand) - 1, sum(stand)
    seconds = gamma * _drafting(schedule, beliefs)
    for member, weight in enumerate(schedule.weights):
        is_needed = sum(chance * (1 - (1 - weight) ** k) for k, chance in _settled(stand).items())
        wasted = sum(chance * _wasted(weight, gamma, k) for k, chance in _settled(stand).items())
        seconds += is_needed * beliefs.seconds(member, (tokens + wasted) / is_needed, weight)
    return Cycle(tokens, seconds)


def _wasted(weight: float, gamma: int, num_settled: int) -> float:
    """Drafts that a member is fed in vain, on average over all blocks: it is drawn for one of the positions that are
    settled, and last for the position behind `last` drafts, of which `num_settled` - 1 stand."""
    is_needed = 1 - (1 - weight) ** num_settled
    return sum(
        weight * (1 - weight) ** (gamma - last) * is_needed * (last - num_settled + 1)
        for last in range(num_settled, gamma + 1)
    )


def _cascade(schedule: Cascade, beliefs: Beliefs) -> Cycle:
    first, gamma, depth = schedule.first, schedule.gamma, schedule.depth
    rounds, lengths = _first_stage(_standing(beliefs, schedule.drafter, first, gamma), depth)
    outer = _standing(beliefs, first, None, depth + gamma + 1)
    tokens = sum(chance * _second_stage(outer, length) for length, chance in lengths.items())
    seconds = rounds * (gamma * beliefs.seconds(schedule.drafter, 1) + beliefs.seconds(first, gamma + 1))
    length = sum(chance * length for length, chance in lengths.items())
    return Cycle(tokens, seconds + _together(beliefs, length + 1, without=first))


def _second_stage(stand: Values[float], length: int) -> float:
    """Tokens from `length` drafts of one member: where all stand, the others' row proposes one more, which the next
    cycle verifies and which is counted here as if it were a member's draft."""
    return sum(stand[:length]) + stand[length + 1]


def _first_stage(stand: Values[float], depth: int) -> tuple[float, dict[int, float]]:
    """Rounds until the member has `depth` tokens, and how many it then has, with their probabilities."""
    gains = _settled(stand)
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

"""Beliefs of `auto`: the cost of forward passes, acceptance rates, and what plans gave by the clock. What is chosen by
them is the business of `auto`."""

import itertools
import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..core.combine import Combination
from ..core.counts import Average
from ..core.draws import probabilities
from ..core.params import SamplingParams
from ..core.policy import Round
from ..core.sheet import Sheet
from ..core.tokens import Token
from ..core.transforms import shape_members, warped
from .costs import DECIDING, DRAFTING, Costs
from .theory import sequences_a_pass

# The acceptance of a proposer that was never compared: high, so that it is tried.
PRIOR_ACCEPTANCE = 0.7
# Acceptances are kept by place in a block up to this one. Pseudo-counts of the place before, at each place.
LAST_PLACE = 12
NUM_TO_TELL_APART = 8
# The least weight of a new measurement.
ACCEPTANCE_RATE, WINDOW_RATE, PACE_RATE = 0.03, 0.05, 0.1
# The most that an average of an earlier process weighs, in comparisons, what a drafter's own folder says of it, and the
# most that an earlier process's windows weigh.
NUM_KEPT, NUM_TOLD, WINDOWS_KEPT = 24, 8, 6
# Optimism bonus of a drafter for a member, .3 / sqrt(1 + comparisons).
OPTIMISM = 0.3
# Pseudo-counts of the shrinkage: the mean correction of all plans weighs 2 windows, since stretches of a text make
# windows of one plan differ by a tenth or two; this plan's own at other batch sizes weighs at most 1.
WINDOWS_OF_OTHERS, WINDOWS_ELSEWHERE = 2, 1
# Pseudo-count of the corrected theory beside the measured speed, in windows.
WINDOWS_OF_THEORY = 2
# A window's seconds are clipped to within this factor of theory's: more is an accident of the machine.
MOST_OFF = 3.0
# The engine's own time in a round that only drafts, over that in one that decides a position, until it is measured.
PART_OF_DRAFTING = 0.5
# What each position more adds to a round that decides one, as a part of it, until rounds of two sizes were measured.
PART_OF_A_POSITION = 0.08

Key = TypeVar("Key", bound=Hashable)


class Pair(NamedTuple):
    """A proposer, and what its drafts are verified against: a member, or None for r."""

    proposer: int
    target: int | None


class Beliefs:
    """What one ensemble has measured under one way of sampling.

    combination, num_members: of the ensemble. params: of the sampling. servers: see Setting. num_live: sequences in the
    last round.
    """

    def __init__(
        self, combination: Combination, num_members: int, params: SamplingParams, servers: Sequence[int] = ()
    ) -> None:
        self.num_members = num_members
        self._servers = tuple(servers)
        self.num_live = 1
        self.costs = Costs()
        self.acceptances: dict[Pair, Average] = {}
        self.by_place: dict[tuple[int, int | None, int], Average] = {}
        self._combination, self._params = combination, params
        # By plan and batch bucket: measured over predicted seconds, and the seconds of a token. Windows are of about as
        # many tokens each, and texts have stretches that take ten times as long as others: the mean of seconds is what
        # a text takes, where the mean of speeds would be that of its fast stretches.
        self._corrections: dict[tuple[str, int], Average] = {}
        self._paces: dict[tuple[str, int], Average] = {}

    def state(self) -> dict[str, Any]:
        """What was measured, in JSON's types."""
        return {
            "num_live": self.num_live,
            "costs": self.costs.state(),
            **{name: [(*key, each.state) for key, each in kept.items()] for name, kept, _ in self._averages()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave, in an ensemble of the same members and drafters."""
        self.num_live = state["num_live"]
        self.costs.restore(state["costs"])
        for name, kept, rate in self._averages():
            for *key, average in state[name]:
                kept[Pair(*key) if name == "acceptances" else tuple(key)] = Average(rate, *average)

    def start_anew(self) -> None:
        """Keep of what an earlier process measured what holds on: acceptances, the cost of forward passes and of the
        engine's own work, and how far plans were from theory, each so that what is measured now soon outweighs it; but
        no speeds by the clock."""
        self.num_live = 1
        self._paces.clear()
        most = {"acceptances": NUM_KEPT, "by_place": NUM_KEPT, "corrections": WINDOWS_KEPT}
        for name, kept, _ in self._averages():
            for average in kept.values():
                average.count = min(average.count, most[name])

    def _averages(self) -> list[tuple[str, dict[Any, Average], float]]:
        """Every mean by what it is of: its name in `state`, and its least weight of a new value."""
        return [
            ("acceptances", self.acceptances, ACCEPTANCE_RATE),
            ("by_place", self.by_place, ACCEPTANCE_RATE),
            ("corrections", self._corrections, WINDOW_RATE),
            ("paces", self._paces, PACE_RATE),
        ]

    def expect(self, drafter: int, acceptance: float) -> None:
        """Begin with the acceptance by r that the drafter had where it was made, which stands for that by each member
        too, to be measured again."""
        for target in (None, *range(self.num_members)):
            self.acceptances[Pair(drafter, target)] = Average(ACCEPTANCE_RATE, acceptance, NUM_TOLD)

    # What is measured.

    def record_round(self, done: Round, learning_seconds: float = 0.0) -> None:
        """A round of these sequences is over; `learning_seconds` of it went into learning."""
        self.num_live = done.num_live
        self.costs.add_round(done, learning_seconds)

    @torch.inference_mode()
    def compare(self, sheet: Sheet, tokens: Sequence[Token], pairs: Collection[Pair] | None = None) -> None:
        """Compare the rows of lanes at the last positions, settled by `tokens`: 1 - TV of each proposer and target.

        pairs: those that are worth it, which at a large vocabulary is part of what `auto` costs; None for all. A lane
        counts as far as its rows go: a drafter has none behind a block that was accepted whole, which must not leave
        the block out.
        """
        if pairs is not None and not pairs:
            return
        first, stop = sheet.position - len(tokens), sheet.position
        stops = {i: min(lane.seen + 1, stop) for i, lane in enumerate(sheet.lanes) if lane.first <= first}
        spans = {i: _with_run(sheet.lanes[i].between(first, end), i, tokens) for i, end in stops.items() if end > first}
        has_all = all(i in spans for i in range(self.num_members))
        targets: list[int | None] = [*([None] if has_all else []), *(i for i in range(self.num_members) if i in spans)]
        possible = [Pair(proposer, target) for target in targets for proposer in spans if proposer != target]
        compared = [pair for pair in possible if pairs is None or pair in pairs]
        needed = {lane for pair in compared for lane in pair}
        is_for_r = None in needed
        rows = {
            i: shape_members(row, self._params)
            for i, row in spans.items()
            if i in needed or (is_for_r and i < self.num_members)
        }
        probs: dict[int | None, Tensor] = {i: self._probs(row) for i, row in rows.items() if i in needed}
        if is_for_r:
            shared = min(rows[i].shape[0] for i in range(self.num_members))
            stacked = torch.stack([rows[i][:shared].to(rows[0]) for i in range(self.num_members)])
            probs[None] = self._probs(self._combination.log_probs(stacked))
        # Two members propose for each other equally well.
        overlaps: dict[frozenset[int | None], list[float]] = {}
        for pair in compared:
            known = overlaps.get(frozenset(pair))
            if known is None:
                known = overlaps[frozenset(pair)] = _overlaps(probs[pair.proposer], probs[pair.target])
            self._record_overlaps(pair, known)

    def _record_overlaps(self, pair: Pair, overlaps: Sequence[float]) -> None:
        average = _kept(self.acceptances, pair)
        for place, overlap in enumerate(overlaps):
            average.add(overlap)
            _kept(self.by_place, (*pair, min(place, LAST_PLACE))).add(overlap)

    def _probs(self, logits: Tensor) -> Tensor:
        """Under the transforms that read nothing but a row; others are taken to change a draft's row and the target's
        alike."""
        if self._params.is_identity:
            return probabilities(logits)
        return probabilities(warped(logits, self._params).whole(logits.shape[-1]))

    def record_window(self, plan: str, theory: float, tokens: int, seconds: float) -> None:
        """A measurement window of this plan, for which theory predicts `theory` tokens a second."""
        key, pace = (plan, self.bucket), 1 / theory
        off = min(MOST_OFF, max(1 / MOST_OFF, seconds / tokens / pace))
        self._corrections.setdefault(key, Average(WINDOW_RATE)).add(off)
        self._paces.setdefault(key, Average(PACE_RATE)).add(off * pace)

    # What follows from it.

    @property
    def bucket(self) -> int:
        """The number of live sequences, rounded up to a power of two: what is fastest for many is not for a few."""
        return 1 << (self.num_live - 1).bit_length()

    def server(self, lane: int) -> int:
        """The first lane that the same runner serves, under which the costs of that runner are kept."""
        return self._servers[lane] if self._servers else lane

    def seconds(self, lane: int, num_tokens: float, share: float = 1.0, *, is_hoped: bool = False) -> float:
        """A sequence's part of a forward pass. is_hoped: where little was measured, as little as it may be."""
        return self._part(self.server(lane), num_tokens, share, is_hoped=is_hoped)

    @property
    def knows_the_engine(self) -> bool:
        """Whether the engine's own time was measured in a round that decides something."""
        return self.costs.is_known(DECIDING)

    def engine_seconds(self, num_decided: float, share: float = 1.0) -> float:
        """A sequence's part of the engine's own time in a round that decides so many of its positions; 0 until a round
        that decides any was run. One that only drafts takes a part of that until one was run, and each position more
        adds a part."""
        if num_decided == 0 and self.costs.is_known(DRAFTING):
            return self._part(DRAFTING, 1, share, is_hoped=True)
        if num_decided == 0:
            return PART_OF_DRAFTING * self._part(DECIDING, 1, share, is_hoped=True)
        seconds = self._part(DECIDING, num_decided, share, is_hoped=True)
        if self.costs.has_one_size(DECIDING):
            seconds *= 1 + PART_OF_A_POSITION * max(0.0, num_decided - 1)
        return seconds

    def _part(self, lane: int, size: float, share: float, *, is_hoped: bool) -> float:
        num_sequences = sequences_a_pass(self.num_live, share)
        return self.costs.seconds(lane, num_sequences * size, is_hoped=is_hoped) / num_sequences

    def acceptance(self, proposer: int, target: int | None, place: int | None = None) -> float:
        """The measured 1 - TV; at a place, shrunk towards that of the place before."""
        known = self.acceptances_of(Pair(proposer, target))
        return known[0] if place is None else known[min(place, LAST_PLACE) + 1]

    def acceptances_of(self, pair: Pair) -> list[float]:
        """That at any place, then at each place up to the last one that is told apart."""
        average = self.acceptances.get(pair)
        value = average.value if average is not None else PRIOR_ACCEPTANCE
        values = [value]
        for at in range(LAST_PLACE + 1):
            here = self.by_place.get((*pair, at))
            if here is not None:
                value += (here.value - value) * here.count / (here.count + NUM_TO_TELL_APART)
            values.append(value)
        return values

    def num_compared(self, pair: Pair) -> int:
        """Positions at which the pair's rows were compared."""
        compared = self.acceptances.get(pair)
        return compared.count if compared else 0

    def optimism(self, proposer: int, target: int | None) -> float:
        """The optimism bonus of a proposer for a member, or for r."""
        return OPTIMISM / math.sqrt(1 + self.num_compared(Pair(proposer, target)))

    def num_windows(self, plan: str) -> int:
        """Windows of this plan at the present batch size."""
        known = self._corrections.get((plan, self.bucket))
        return known.count if known else 0

    def predicted(self, theories: dict[str, float]) -> dict[str, float]:
        """Tokens a second of each plan, all sequences together, from what theory predicts of each: as the clock
        corrects it, and as far as the plan was timed at this batch size, by the clock alone."""
        usual = self._usual_correction()
        return {plan: self._predicted(plan, theory, usual) if theory > 0 else 0.0 for plan, theory in theories.items()}

    def _predicted(self, plan: str, theory: float, usual: float) -> float:
        timed = self._paces.get((plan, self.bucket))
        expected = math.log(theory) - self._correction(plan, usual)
        if timed is None:
            return math.exp(expected)
        measured = -math.log(timed.value)
        return math.exp((measured * timed.count + expected * WINDOWS_OF_THEORY) / (timed.count + WINDOWS_OF_THEORY))

    def _correction(self, plan: str, usual: float) -> float:
        """log of the expected seconds over theory's: by the plan's windows at this batch size, its others, and all
        plans'."""
        here = self._corrections.get((plan, self.bucket), Average(WINDOW_RATE))
        own = [average for (other, _), average in self._corrections.items() if other == plan and average is not here]
        elsewhere = min(sum(average.count for average in own), WINDOWS_ELSEWHERE)
        parts = ((_log_mean([here]), here.count), (_log_mean(own), elsewhere), (usual, WINDOWS_OF_OTHERS))
        return sum(value * weight for value, weight in parts) / sum(weight for _, weight in parts)

    def _usual_correction(self) -> float:
        """The same of a plan that was never timed: the mean over timed plans, with theory itself as one more."""
        by_plan: dict[str, list[Average]] = {}
        for (plan, _), average in self._corrections.items():
            by_plan.setdefault(plan, []).append(average)
        return sum(map(_log_mean, by_plan.values())) / (len(by_plan) + 1)


def _kept(averages: dict[Key, Average], key: Key) -> Average:
    """The mean of that name, which may begin here."""
    average = averages.get(key)
    if average is None:
        average = averages[key] = Average(ACCEPTANCE_RATE)
    return average


def _overlaps(q: Tensor, p: Tensor) -> list[float]:
    """1 - TV of two distributions [positions, vocab] at each position that both have."""
    shared = min(q.shape[0], p.shape[0])
    sums = torch.minimum(q[:shared].to(p), p[:shared]).sum(-1).tolist()
    # A lookup without a proposal has a row of -inf alone, which overlaps with nothing.
    return [0.0 if math.isnan(overlap) else overlap for overlap in sums]


def _log_mean(averages: Sequence[Average]) -> float:
    """log of the mean over all that went into them; 0 if nothing did."""
    count = sum(each.count for each in averages)
    return math.log(sum(each.value * each.count for each in averages) / count) if count else 0.0


def _with_run(rows: Tensor, lane: int, tokens: Sequence[Token]) -> Tensor:
    """A lane's rows [positions, vocab] at the first of these tokens, with those of tokens that it proposed at once
    behind the first: each certain of its token."""
    run = itertools.takewhile(lambda token: lane in (token.proposer, token.rejected), tokens)
    ids = [token.token if token.proposer == lane else token.replaced for token in run][len(rows) :]
    if not ids:
        return rows
    certain = rows.new_full((len(ids), rows.shape[-1]), -math.inf)
    return torch.cat([rows, certain.scatter_(1, torch.tensor(ids, device=rows.device)[:, None], 0.0)])

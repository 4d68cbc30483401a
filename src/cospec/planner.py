"""`auto`: measure costs and acceptances as texts are decoded, predict each plan's speed, and pick.

It learns from every call what a lane's call takes, and from the rows themselves how often each proposer would be
accepted: 1 - TV between its row and the target's, for all proposers that have a row, whoever drafted. Which plan runs
changes the speed and never the distribution, and it changes only where nothing is drafted.
"""

import math
import random
import time
from collections.abc import Mapping
from collections.abc import Sequence as Values
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .combine import Combination
from .schedule import Plan, Schedule, Setting, make_schedule
from .sequence import Sequence
from .theory import cycle

# A plan is left for another that promises so much more.
HYSTERESIS = 1.03
# One decision in so many tries another plan than the best, where one text is decoded. Of many, each tries still more
# seldom: the others wait for it.
EXPLORE_ONE_IN = 64
ROWS_TO_EXPLORE_HALF = 8
# What is known is weighed anew after so many decisions, at first, and never more often than this.
DECISIONS_BETWEEN_PLANS = 16
SECONDS_BETWEEN_PLANS = 0.2
# Blocks that each of the first candidates runs, so that all that is predicted from was seen.
TRIALS = 2
# Rounds of `plain` once there are twice as many texts as ever: what a token costs then is to be known.
PLAIN_ROUNDS = 2
# Rows are compared at one in so many settlements once there are enough.
COMPARE_ONE_IN = 4
NUM_COMPARED_ALWAYS = 32
# What a proposer not yet seen is taken to achieve: much, so that it is tried.
PRIOR_ACCEPTANCE = 0.7
# Acceptances are told apart up to this place in a block; each is held to be the one before it until so many say else.
LAST_PLACE = 12
NUM_TO_TELL_APART = 8
# How much a new measurement counts.
COST_RATE, ACCEPTANCE_RATE = 0.2, 0.03


@dataclass
class Average:
    """An average that forgets: plain at first, then exponential."""

    rate: float
    value: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.count += 1
        self.value += (value - self.value) * max(self.rate, 1 / self.count)


@dataclass
class Costs:
    """Seconds of a call a sequence, by lane, sequences in the call, and tokens fed to each."""

    cells: dict[tuple[int, int], dict[int, Average]] = field(default_factory=dict)

    def add(self, lane: int, num_rows: int, num_tokens: int, seconds: float) -> None:
        by_tokens = self.cells.setdefault((lane, _bucket(num_rows)), {})
        average = by_tokens.setdefault(num_tokens, Average(COST_RATE))
        # A stall of the machine is no cost of the call.
        known = average.value if average.count >= 3 else math.inf
        average.add(min(seconds, 3 * known) / num_rows if known == math.inf else min(seconds / num_rows, 3 * known))

    def seconds(self, lane: int, num_rows: int, num_tokens: float) -> float:
        """Between what was measured, on the line; outside, the nearest, grown by a tenth of the tokens beyond."""
        known = self._nearest(lane, num_rows)
        if not known:
            return 0.0
        below = max((k for k in known if k <= num_tokens), default=None)
        above = min((k for k in known if k >= num_tokens), default=None)
        if below is None or above is None:
            edge = above if below is None else below
            assert edge is not None
            return known[edge].value * max(1.0, 1 + 0.1 * (num_tokens - edge) / edge)
        share = 0.0 if above == below else (num_tokens - below) / (above - below)
        return known[below].value * (1 - share) + known[above].value * share

    def _nearest(self, lane: int, num_rows: int) -> Mapping[int, Average]:
        buckets = [bucket for other, bucket in self.cells if other == lane]
        if not buckets:
            return {}
        nearest = min(buckets, key=lambda bucket: abs(math.log2(bucket / _bucket(num_rows))))
        return self.cells[lane, nearest]


def _bucket(num_rows: int) -> int:
    """The power of two from here up."""
    return 1 << (num_rows - 1).bit_length()


@dataclass
class Planner:
    """What one ensemble has learned under one way of sampling, and the plan that it holds to be the fastest.

    candidates: name -> schedule; the first is plain. trials: names of those that are run first.
    combination, num_members: of the ensemble. temperature: of the sampling.
    """

    candidates: Mapping[str, Schedule]
    trials: Values[str]
    combination: Combination
    num_members: int
    temperature: float
    costs: Costs = field(default_factory=Costs)
    acceptances: dict[tuple[int, int | None], Average] = field(default_factory=dict)
    by_place: dict[tuple[int, int | None, int], Average] = field(default_factory=dict)
    num_rows: int = 1
    chosen: str = ""
    predictions: dict[str, float] = field(default_factory=dict)
    num_decisions: int = 0
    _overhead: Average = field(default_factory=lambda: Average(COST_RATE))
    _num_settled: int = 0
    _sizes: set[int] = field(default_factory=lambda: {1})
    _num_plain: int = 0
    _planned_at: float = -math.inf
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    # What the engine reports.

    def on_call(self, lane: int, num_rows: int, num_tokens: int, seconds: float) -> None:
        """A lane's runner took so long for a call of so many sequences, the longest fed so many tokens."""
        self.costs.add(lane, num_rows, num_tokens, seconds)

    def on_round(self, num_live: int, num_feeds: int, seconds: float) -> None:
        """A round took so long outside its calls."""
        self.num_rows = num_live
        self._overhead.add(seconds / max(1, num_feeds))

    @torch.inference_mode()
    def on_settled(self, sequence: Sequence, first: int, count: int) -> None:
        """Positions first .. first + count - 1 were settled, and their rows are still there."""
        self._num_settled += 1
        if self._num_settled > NUM_COMPARED_ALWAYS and self._num_settled % COMPARE_ONE_IN:
            return
        # As far as each lane goes: a drafter has no row behind a block that stood whole, which must not leave it out.
        stops = {i: min(lane.seen + 1, first + count) for i, lane in enumerate(sequence.lanes) if lane.first <= first}
        rows = {i: sequence.lanes[i].between(first, stop) for i, stop in stops.items() if stop > first}
        probs: dict[int | None, Tensor] = {i: self._probs(row) for i, row in rows.items()}
        if all(i in rows for i in range(self.num_members)):
            shared = min(rows[i].shape[0] for i in range(self.num_members))
            stacked = torch.stack([rows[i][:shared].to(rows[0]) for i in range(self.num_members)])
            probs[None] = self._probs(self.combination.log_probs(stacked))
        for target in [None, *range(self.num_members)]:
            for proposer in rows:
                if target in probs and proposer != target:
                    shared = min(probs[proposer].shape[0], probs[target].shape[0])
                    self._compare(proposer, target, probs[proposer][:shared], probs[target][:shared])

    def _compare(self, proposer: int, target: int | None, q: Tensor, p: Tensor) -> None:
        average = self.acceptances.setdefault((proposer, target), Average(ACCEPTANCE_RATE))
        # A lookup without a proposal has a row of nothing, which overlaps with nothing.
        for place, overlap in enumerate(torch.minimum(q.to(p), p).nan_to_num(0.0).sum(-1).tolist()):
            average.add(overlap)
            key = (proposer, target, min(place, LAST_PLACE))
            self.by_place.setdefault(key, Average(ACCEPTANCE_RATE)).add(overlap)

    def _probs(self, logits: Tensor) -> Tensor:
        if self.temperature == 0:
            return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
        return torch.softmax(logits / self.temperature, dim=-1)

    # What `theory` asks.

    def seconds(self, lane: int, num_tokens: float) -> float:
        return self.costs.seconds(lane, self.num_rows, num_tokens) + self._overhead.value

    def acceptance(self, proposer: int, target: int | None, place: int | None = None) -> float:
        average = self.acceptances.get((proposer, target))
        value = average.value if average is not None else PRIOR_ACCEPTANCE
        for key in ((proposer, target, i) for i in range(min(place, LAST_PLACE) + 1 if place is not None else 0)):
            here = self.by_place.get(key)
            if here is not None:
                value += (here.value - value) * here.count / (here.count + NUM_TO_TELL_APART)
        return value

    # The decision.

    def choose(self) -> Schedule:
        """The schedule for a text that has nothing drafted."""
        self.num_decisions += 1
        number = self.num_decisions - 1
        if number < TRIALS * len(self.trials):
            return self.candidates[self.trials[number // TRIALS]]
        if self._is_new_size():
            return next(iter(self.candidates.values()))
        if not self.chosen or number % DECISIONS_BETWEEN_PLANS == 0:
            self._plan()
        if self._random.random() * self._decisions_a_try() < 1:
            return self.candidates[self._another()]
        return self.candidates[self.chosen]

    def _is_new_size(self) -> bool:
        """Whether so many texts at once were not decoded plainly yet."""
        size = _bucket(self.num_rows)
        if size not in self._sizes:
            self._sizes.add(size)
            self._num_plain = PLAIN_ROUNDS * self.num_rows
        self._num_plain -= 1
        return self._num_plain >= 0

    def _decisions_a_try(self) -> float:
        return EXPLORE_ONE_IN * self.num_rows * (1 + (self.num_rows - 1) / ROWS_TO_EXPLORE_HALF)

    def predict(self) -> dict[str, float]:
        """Tokens a second of each candidate, one text's, under what is known now."""
        return {name: cycle(schedule, self).speed for name, schedule in self.candidates.items()}

    def _plan(self) -> None:
        now = time.perf_counter()
        if self.chosen and now - self._planned_at < SECONDS_BETWEEN_PLANS:
            return
        self._planned_at = now
        self.predictions = self.predict()
        best = max(self.predictions, key=self.predictions.__getitem__)
        if not self.chosen or self.predictions[best] > HYSTERESIS * self.predictions[self.chosen]:
            self.chosen = best

    def _another(self) -> str:
        """One of those that may be the best, if what is known is a little off."""
        floor = 0.8 * self.predictions[self.chosen]
        near = [name for name, speed in self.predictions.items() if speed >= floor]
        return self._random.choice(near)


@dataclass(frozen=True)
class Adaptive:
    """A schedule that asks the planner wherever nothing is drafted, and keeps to the answer until then."""

    planner: Planner
    _current: WeakKeyDictionary[Sequence, tuple[int, Schedule]] = field(default_factory=WeakKeyDictionary)
    name = "auto"

    def turn(self, sequence: Sequence) -> Values[int]:
        return self._schedule(sequence).turn(sequence)

    def proposer(self, sequence: Sequence) -> int | None:
        return self._schedule(sequence).proposer(sequence)

    def refiner(self, sequence: Sequence) -> int | None:
        return self._schedule(sequence).refiner(sequence)

    def cells(self, sequence: Sequence, position: int) -> Values[int]:
        return self._schedule(sequence).cells(sequence, position)

    def _schedule(self, sequence: Sequence) -> Schedule:
        position, schedule = self._current.get(sequence, (-1, None))
        if schedule is None or (position != sequence.position and not sequence.drafts):
            schedule = self.planner.choose()
            self._current[sequence] = (sequence.position, schedule)
        return schedule


def make_planner(plans: Values[Plan], setting: Setting) -> Planner:
    """A planner that knows nothing yet."""
    candidates = {str(plan): make_schedule(plan, setting) for plan in plans}
    kinds: dict[object, str] = {}
    for plan in plans:
        # Of each kind the one of middling size says most.
        if plan.gammas in ((), (4,), (4, 4)):
            kinds.setdefault((plan.schedule, plan.proposer), str(plan))
    return Planner(
        candidates=candidates,
        trials=list(kinds.values()),
        combination=setting.combination,
        num_members=len(setting.members),
        temperature=setting.params.temperature,
    )

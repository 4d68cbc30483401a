"""`auto`: measure costs and acceptances as texts are decoded, predict each plan's speed, and pick.

It learns from every call what a lane's call takes, and from the rows themselves how often each proposer would be
accepted: 1 - TV between its row and the target's, for all proposers that have a row, whoever drafted. Theory makes
speeds of that, and the clock corrects them: the texts run one plan at a time, an era, and what a plan gave in its eras
over what theory gave it is believed of it from then on. Which plan runs changes the speed and never the distribution,
and a text changes its plan only where nothing is drafted.
"""

import math
from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence as Values
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.combine import Combination
from ..core.counts import Average
from ..core.observer import Round
from ..core.sampling import SamplingParams, probabilities, warp
from ..core.sheet import Sequence, Settled
from . import DrawnMember, Fixed, Plan, Schedule, Setting, make_schedule
from .costs import Costs
from .theory import cycle, paced, texts_a_call

# A plan is left for another that promises so much more.
HYSTERESIS = 1.03
# A plan that was never run is tried if it promises so little less than the best; one that was, more seldom.
EXPLORE = 0.05
# An era is over after so many tokens, and so many more for each text of several, and after so many seconds.
ERA_TOKENS, ERA_TOKENS_A_TEXT, ERA_SECONDS = 18, 6, 0.3
# Those of the first eras, which are there so that all that is predicted from was seen.
TRIAL_TOKENS = 6
# What of an era's length is enough for the first plan, where it runs to be known: its speed hangs on no acceptance.
PART_OF_AN_ERA = 1 / 3
# One in so many eras is a drafter's trial again, whatever it did before: texts change.
ERAS_A_TRIAL = 80
# Drafters that draft nothing are heard beside the members, for so much of a text's time, and not before so many tokens
# more: what they would have drafted is compared as well, so that a plan by another is predicted from texts as they are.
SHARE_OF_HEARING, TOKENS_A_HEARING = 0.01, 16
# Rows are compared at one in so many settlements, of one text or of each of several, once there are enough.
COMPARE_ONE_IN = 4
NUM_COMPARED_ALWAYS = 32
# What a proposer not yet seen is taken to achieve: much, so that it is tried.
PRIOR_ACCEPTANCE = 0.7
# Acceptances are told apart up to this place in a block; each is held to be the one before it until so many say else.
LAST_PLACE = 12
NUM_TO_TELL_APART = 8
# How much a new measurement counts.
OVERHEAD_RATE, ACCEPTANCE_RATE, ERA_RATE, SPEED_RATE = 0.2, 0.03, 0.05, 0.1
# How much better than it seems a drafter may be for a member, where they were compared once.
CURIOSITY = 0.3
# As many eras as what is usual of plans is worth for one, and those of its own with other numbers of texts at most.
NUM_ERAS_OF_OTHERS, NUM_ERAS_ELSEWHERE = 0.3, 1
# As many eras as theory's word, so corrected, is worth beside the clock's.
ERAS_OF_THEORY = 0.3
# What an era says beyond this factor is an accident.
MOST_OFF = 2.0


@dataclass
class Era:
    """A stretch of rounds in which the texts run one plan: what they gave once all had changed to it.

    bucket: of how many texts there were, a power of two. part: of an era's usual length, after which it is over.
    seconds: of all texts together.
    """

    name: str
    bucket: int = 1
    part: float = 1.0
    tokens: int = 0
    seconds: float = 0.0


@dataclass
class Notes:
    """What the planner remembers of a text.

    position: where it was asked last what the text runs. era: whose plan that is. unfed: tokens that each member was
    still to be fed after the text's last round. heard: where a drafter that was idle was heard last. to_spend: seconds
    that hearing one may take.
    """

    position: int = -1
    era: Era | None = None
    unfed: list[int] | None = None
    heard: int = -TOKENS_A_HEARING
    to_spend: float = 0.0


@dataclass
class Planner:
    """What one ensemble has learned under one way of sampling, and the plan that it holds to be the fastest.

    candidates: name -> schedule, plain first. trials: names of those that are run first, plain, then one a drafter.
    combination, num_members: of the ensemble. params: of the sampling.
    """

    candidates: Mapping[str, Schedule]
    trials: Values[str]
    combination: Combination
    num_members: int
    params: SamplingParams
    costs: Costs = field(default_factory=Costs)
    acceptances: dict[tuple[int, int | None], Average] = field(default_factory=dict)
    by_place: dict[tuple[int, int | None, int], Average] = field(default_factory=dict)
    # Plan and number of texts, to a power of two -> log of measured over predicted.
    eras: dict[tuple[str, int], Average] = field(default_factory=dict)
    # The same, of log of tokens a second.
    speeds: dict[tuple[str, int], Average] = field(default_factory=dict)
    num_rows: int = 1
    chosen: str = ""
    predictions: dict[str, float] = field(default_factory=dict)
    _overhead: Average = field(default_factory=lambda: Average(OVERHEAD_RATE))
    _num_heard: Counter[int] = field(default_factory=Counter)
    _num_settled: int = 0
    _num_trials: int = 0
    _num_eras: int = 0
    _era: Era | None = None

    # What the engine reports.

    def on_call(self, lane: int, num_tokens: int, seconds: float) -> None:
        """A lane's runner took so long for a call of so many tokens, those of all its texts together."""
        self.costs.add(lane, num_tokens, seconds)

    def on_round(self, done: Round) -> None:
        """A round is over."""
        self.num_rows = done.num_live
        self._overhead.add((done.seconds - done.seconds_in_runners) / max(1, done.num_feeds))
        for text in done.sequences:
            _notes(text).to_spend += SHARE_OF_HEARING * done.seconds / done.num_live
        era, put_off = self._era, self._put_off(done.sequences)
        if era is not None and not done.has_prefill and all(_notes(text).era is era for text in done.sequences):
            era.tokens += done.num_settled
            era.seconds += done.seconds + put_off

    def _put_off(self, texts: Values[Sequence]) -> float:
        """Seconds for the tokens that members are still to be fed, more than before the round, each at what a token
        more in a call takes: a plan under which members wait would seem fast until they catch up."""
        more = [0] * self.num_members
        # What is over is not caught up with, which is no time won in its last round.
        for text in (text for text in texts if text.finish_reason is None):
            # The last token is fed in the next round under any plan, and a prompt is none of the plan's.
            own = [max(0, text.position - 1 - max(0, text.lanes[i].seen)) for i in text.members]
            notes = _notes(text)
            for i, (now, before) in enumerate(zip(own, notes.unfed or own, strict=True)):
                more[i] += now - before
            notes.unfed = own
        return sum(self.costs.seconds_more(lane, self.num_rows) * tokens for lane, tokens in enumerate(more) if tokens)

    def on_settled(self, sequence: Sequence, settled: Values[Settled]) -> None:
        """The last positions were settled so, and their rows are still there."""
        self._pace(sequence, settled)
        self._num_settled += 1
        first = sequence.position - len(settled)
        is_one_in_many = self._num_settled % (COMPARE_ONE_IN * self.num_rows) == 0
        if self._num_settled <= NUM_COMPARED_ALWAYS or is_one_in_many or _notes(sequence).heard == first:
            self._compare_rows(sequence, first, sequence.position)

    def listens_to(self, sequence: Sequence) -> Values[int]:
        """The idle drafter that was heard the least, where its call is within what the text may spend."""
        notes, lanes = _notes(sequence), sequence.lanes
        if not self.chosen or sequence.position < notes.heard + TOKENS_A_HEARING:
            return ()
        idle = [i for i in range(self.num_members, len(lanes)) if not lanes[i].has(sequence.position)]
        drafter = min(idle, key=self._num_heard.__getitem__, default=None)
        if drafter is None or self.costs.seconds(drafter, sequence.frontier - lanes[drafter].seen) > notes.to_spend:
            return ()
        notes.heard, notes.to_spend = sequence.position, 0.0
        self._num_heard[drafter] += 1
        return (drafter,)

    def _pace(self, sequence: Sequence, settled: Values[Settled]) -> None:
        era = _notes(sequence).era
        running = self.candidates[era.name] if era is not None else None
        pace = running.pace if isinstance(running, Fixed | DrawnMember) else None
        for one in settled:
            if pace is not None and one.confidence is not None:
                pace.learn(one.confidence, is_accepted=one.replaced is None)

    @torch.inference_mode()
    def _compare_rows(self, sequence: Sequence, first: int, stop: int) -> None:
        # As far as each lane goes: a drafter has no row behind a block that stood whole, which must not leave it out.
        stops = {i: min(lane.seen + 1, stop) for i, lane in enumerate(sequence.lanes) if lane.first <= first}
        rows = {i: sequence.lanes[i].between(first, end) for i, end in stops.items() if end > first}
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
        """Under the transforms that look at nothing but a row; others are taken to change a draft's row and the
        target's alike."""
        return probabilities(logits if self.params.is_identity else warp(logits, self.params))

    # What `theory` asks.

    def seconds(self, lane: int, num_tokens: float, share: float = 1.0) -> float:
        """A text's part of a call, which takes its part of what is around calls too."""
        num_texts = texts_a_call(self.num_rows, share)
        return self.costs.seconds(lane, num_texts * num_tokens) / num_texts + self._overhead.value

    def acceptance(self, proposer: int, target: int | None, place: int | None = None) -> float:
        average = self.acceptances.get((proposer, target))
        value = average.value if average is not None else PRIOR_ACCEPTANCE
        for key in ((proposer, target, i) for i in range(min(place, LAST_PLACE) + 1 if place is not None else 0)):
            here = self.by_place.get(key)
            if here is not None:
                value += (here.value - value) * here.count / (here.count + NUM_TO_TELL_APART)
        return value

    # The decision.

    def running(self, sequence: Sequence) -> Schedule:
        """What a text runs: chosen anew at each position where nothing is drafted, unless what runs may not be left."""
        notes = _notes(sequence)
        is_clean = notes.position != sequence.position and not sequence.drafts
        if notes.era is None or (is_clean and self.candidates[notes.era.name].may_be_left(sequence)):
            notes.era, notes.position = self._now(), sequence.position
        return self.candidates[notes.era.name]

    def _now(self) -> Era:
        """The era that runs; a new one if that is over."""
        if self._era is None or self._is_over(self._era):
            self._era = self._next()
        return self._era

    def _is_over(self, era: Era) -> bool:
        if not self.chosen:
            return era.tokens >= TRIAL_TOKENS
        if era.bucket != _bucket(self.num_rows):
            # What is best for many texts is not for a few.
            return True
        tokens = ERA_TOKENS + ERA_TOKENS_A_TEXT * self.num_rows
        return era.tokens >= era.part * tokens and era.seconds >= era.part * ERA_SECONDS

    def _next(self) -> Era:
        """Each of the trials, and seldom one of them again; then the first plan if it was never timed for so many
        texts; then the best, or one that might be better still."""
        bucket = _bucket(self.num_rows)
        if self._num_trials < len(self.trials):
            self._num_trials += 1
            return Era(self.trials[self._num_trials - 1], bucket)
        if self._era is not None and self.chosen:
            self._learn(self._era)
        self._plan()
        self._num_eras += 1
        drafters = self.trials[1:]
        if drafters and self._num_eras % ERAS_A_TRIAL == 0:
            return Era(drafters[self._num_eras // ERAS_A_TRIAL % len(drafters)], bucket)
        first = next(iter(self.candidates))
        # What all are held against is to be known, not predicted.
        if (first, bucket) not in self.eras:
            return Era(first, bucket, PART_OF_AN_ERA)
        hopes = {name: speed * (1 + self._hope(name)) for name, speed in self.predictions.items()}
        hopes[self.chosen] = max(hopes[self.chosen], self.predictions[self.chosen] * HYSTERESIS)
        return Era(max(hopes, key=hopes.__getitem__), bucket)

    def _learn(self, era: Era) -> None:
        """What the era gave, and what that is over what theory gives its plan."""
        expected, key = self._theory(era.name), (era.name, era.bucket)
        if expected > 0 and era.tokens > 0 and era.bucket == _bucket(self.num_rows):
            given, bound = math.log(era.tokens / era.seconds), math.log(MOST_OFF)
            off = min(bound, max(-bound, given - math.log(expected)))
            self.eras.setdefault(key, Average(ERA_RATE)).add(off)
            self.speeds.setdefault(key, Average(SPEED_RATE)).add(given)

    def predict(self) -> dict[str, float]:
        """Tokens a second of each candidate, all texts' together, under what is known now."""
        usual = self._usual_correction()
        return {name: self._predicted(name, usual) for name in self.candidates}

    def _predicted(self, name: str, usual: float) -> float:
        """By the clock where the plan was timed with as many texts, and by theory as the clock corrects it."""
        theory = self._theory(name)
        if theory <= 0:
            return 0.0
        timed = self.speeds.get((name, _bucket(self.num_rows)), Average(SPEED_RATE))
        expected = math.log(theory) + self._correction(name, usual)
        return math.exp((timed.value * timed.count + expected * ERAS_OF_THEORY) / (timed.count + ERAS_OF_THEORY))

    def _theory(self, name: str) -> float:
        return cycle(self.candidates[name], self).speed

    def _correction(self, name: str, usual: float) -> float:
        """log of what is to be expected over theory: by the plan's eras with as many texts, its others, and all."""
        here = self.eras.get((name, _bucket(self.num_rows)), Average(ERA_RATE))
        own = [average for (other, _), average in self.eras.items() if other == name and average is not here]
        elsewhere = min(sum(average.count for average in own), NUM_ERAS_ELSEWHERE)
        parts = ((here.value, here.count), (_mean(own), elsewhere), (usual, NUM_ERAS_OF_OTHERS))
        return sum(value * weight for value, weight in parts) / sum(weight for _, weight in parts)

    def _usual_correction(self) -> float:
        """The same of a plan that was never run: what those that were have in common, theory itself being one more."""
        by_name: dict[str, list[Average]] = {}
        for (name, _), average in self.eras.items():
            by_name.setdefault(name, []).append(average)
        return sum(map(_mean, by_name.values())) / (len(by_name) + 1)

    def _hope(self, name: str) -> float:
        """By how much a plan may be better than it seems."""
        known = self.eras.get((name, _bucket(self.num_rows)))
        return EXPLORE / math.sqrt(1 + (known.count if known else 0))

    def _plan(self) -> None:
        for schedule in self.candidates.values():
            if isinstance(schedule, DrawnMember) and schedule.drafters is not None:
                schedule.drafters.assign(self._worth)
        self.predictions = self.predict()
        best = max(self.predictions, key=self.predictions.__getitem__)
        if not self.chosen or self.predictions[best] > HYSTERESIS * self.predictions[self.chosen]:
            self.chosen = best
        for name, schedule in self.candidates.items():
            if isinstance(schedule, Fixed | DrawnMember) and schedule.pace is not None:
                schedule.pace.floor = self._floor(name, schedule)

    def _worth(self, drafter: int, member: int) -> float:
        """What a drafter's token is worth where this member is to judge it, in tokens: that it is accepted, less what
        could be written while it is drafted; more where little was seen of the two, so that the better one is found."""
        seen = self.acceptances.get((drafter, member))
        unsure = CURIOSITY / math.sqrt(1 + (seen.count if seen else 0))
        speed = self.predictions.get(self.chosen, 0.0)
        return self.acceptance(drafter, member) + unsure - self.seconds(drafter, 1) * speed

    def _floor(self, name: str, schedule: Fixed | DrawnMember) -> float:
        """The probability that a block stands at which one more draft gives as many tokens a second as all the rest.

        A draft more gives (probability that all before stand) * acceptance tokens, and takes its own seconds. (Where
        a stretch pays if it gives more than the average: the marginal value theorem of renewal rewards.)
        """
        block = paced(schedule, self)
        pays = self.predictions[name] * block.seconds_a_draft
        return min(0.95, max(0.02, pays / max(block.acceptance, 1e-3)))


def _notes(text: Sequence) -> Notes:
    if text.notes is None:
        text.notes = Notes()
    notes: Notes = text.notes
    return notes


def _mean(averages: Values[Average]) -> float:
    """Of all that went into them; 0 if nothing did."""
    return sum(each.value * each.count for each in averages) / max(1, sum(each.count for each in averages))


def _bucket(num_rows: int) -> int:
    """The power of two from here up."""
    return 1 << (num_rows - 1).bit_length()


@dataclass(frozen=True)
class Adaptive:
    """The schedule that the planner has a text run."""

    planner: Planner
    # The schedule that was asked for: auto, or one whose drafter's pace is planned.
    name: str = "auto"

    def turn(self, sequence: Sequence) -> Values[int]:
        return self.planner.running(sequence).turn(sequence)

    def may_keep_up(self, sequence: Sequence) -> bool:
        return self.planner.running(sequence).may_keep_up(sequence)

    def proposer(self, sequence: Sequence) -> int | None:
        return self.planner.running(sequence).proposer(sequence)

    def refiner(self, sequence: Sequence) -> int | None:
        return self.planner.running(sequence).refiner(sequence)

    def cells(self, sequence: Sequence, position: int) -> Values[int]:
        return self.planner.running(sequence).cells(sequence, position)

    def reach(self, sequence: Sequence, lane: int) -> int:
        return self.planner.running(sequence).reach(sequence, lane)

    def may_be_left(self, sequence: Sequence) -> bool:
        return self.planner.running(sequence).may_be_left(sequence)


def make_planner(plans: Values[Plan], setting: Setting) -> Planner:
    """A planner that knows nothing yet."""
    # One plan a drafter, so that its cost and its acceptance are known.
    first_of = {plan.proposer: str(plan) for plan in reversed(plans) if plan.proposer in setting.drafters}
    return Planner(
        candidates={str(plan): make_schedule(plan, setting) for plan in plans},
        trials=[*dict.fromkeys([str(plans[0]), *first_of.values()])],
        combination=setting.combination,
        num_members=len(setting.members),
        params=setting.params,
    )

"""The study itself, as steps that each leave the ledger whole: timed runs, the self-test, scores, perplexities."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Values
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..errors import InvalidPilot
from .asked import Asked
from .benchmark import add_counts
from .energy import Meter, find_meter
from .exactness import Check, Effort, num_checks, self_test
from .given import Given, given_logprobs
from .ledger import Ledger, at
from .memory import note_memory
from .questions import balanced
from .relaxed import relaxed_trials
from .results import OURS, PLAIN, CheckRow, DifferenceRow, Measurement
from .scoring import scorer
from .theory_speeds import theory_over_plain
from .timed import KEPT, check, timed
from .trials import Batch, Trial, batches, trials

T = TypeVar("T")

# Texts that are scored, or whose perplexity is taken, at a time.
TEXTS_A_STEP = 32
# What `auto` may decode before its choice must stand, and how often in a row it must have stayed the same.
MOST_WARM_UPS, NUM_STEADY = 12, 3
# The self-test compares this much.
NUM_CHECKED_PROMPTS, CHECKED_TOKENS, NUM_SAMPLES = 6, 32, 100


@dataclass(frozen=True)
class Step:
    """phase: what it belongs to, for the progress bar. weight: about how many tokens are decoded."""

    phase: str
    weight: float
    run: Callable[[], None]


@dataclass
class Study:
    """An ensemble on trial on these questions; what it measures goes to the ledger."""

    ensemble: Ensemble
    asked: Asked
    ledger: Ledger
    meter: Meter = field(default_factory=find_meter)

    def __post_init__(self) -> None:
        self.questions = self.asked.questions
        self.timed = balanced(self.questions, self.asked.num_prompts)
        self.params = SamplingParams(max_tokens=self.asked.tokens, temperature=self.asked.temperature, ignore_eos=True)
        self.score_params = SamplingParams(
            max_tokens=self.asked.score_tokens, temperature=self.asked.score_temperature, stop=self.asked.stop
        )
        self.texts = self._texts()
        self.trials = trials(self.ensemble, self.params)
        self.relaxed = relaxed_trials(self.ensemble, self.asked.criteria.relaxed)
        note_memory(self.ensemble, self.ledger)

    def steps(self) -> list[Step]:
        """What is left to do, in order."""
        found: list[Step] = []
        for concurrency in sorted(self.asked.concurrencies):
            found += self._timing("speed", self.trials, concurrency)
        found += self._checking()
        for trial in self._scored_trials():
            found += self._scoring(trial) + self._weighing(trial)
        if self.relaxed:
            found += self._timing("relaxed acceptance", self.relaxed, 1)
        return found

    def run(self, on_step: Callable[[Step], None], should_stop: Callable[[], bool]) -> bool:
        """All steps that are left; whether they were finished. on_step: after each, when the ledger is whole."""
        if not self.ledger.started:
            self.ledger.started = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        for step in self.steps():
            if should_stop():
                return False
            started = time.perf_counter()
            step.run()
            self.ledger.seconds += time.perf_counter() - started
            note_memory(self.ensemble, self.ledger)
            on_step(step)
        return True

    # Timed runs.

    def _timing(self, phase: str, methods: Values[Trial], concurrency: int) -> list[Step]:
        done = {(m.method, m.concurrency, m.batch, m.repeat) for m in self.ledger.measurements}
        todo = [
            (batch, repeat)
            for batch in batches(self.questions, self.timed, concurrency)
            for repeat in range(self.asked.repeats)
            if any((trial.name, concurrency, batch.number, repeat) not in done for trial in methods)
        ]
        weight = self.asked.tokens * len(methods)
        found = [
            Step(phase, weight, partial(self._time, methods, concurrency, batch, repeat)) for batch, repeat in todo
        ]
        return [Step("warm-up", weight, partial(self._warm_up, methods, concurrency)), *found] if found else []

    def _warm_up(self, methods: Values[Trial], concurrency: int) -> None:
        """Each method decodes a batch that does not count; `auto` more of them, until its choice stands."""
        found = batches(self.questions, self.timed, concurrency)
        for trial in methods:
            self._decode(trial, found[0])
            planner = trial.ensemble.planner_for(self.params)
            if planner is None:
                continue
            leaders: list[str] = []
            for batch in itertools.islice(itertools.cycle(found), MOST_WARM_UPS):
                self._decode(trial, batch)
                leaders.append(planner.chosen or "")
                if leaders[-1] and leaders[-NUM_STEADY:] == [leaders[-1]] * NUM_STEADY:
                    break

    def _time(self, methods: Values[Trial], concurrency: int, batch: Batch, repeat: int) -> None:
        # Who comes first changes from run to run, so that a machine that grows warm favours nobody.
        first = (batch.number + repeat) % len(methods)
        for trial in [*methods[first:], *methods[:first]]:
            if self.ledger.is_timed(trial.name, concurrency, batch.number, repeat):
                continue
            run = timed(trial, [self.questions[i].prompt for i in batch.prompts], self.params, self.meter)
            self.ledger.measurements.append(
                Measurement(
                    method=trial.name,
                    concurrency=concurrency,
                    batch=batch.number,
                    repeat=repeat,
                    category=batch.category,
                    prompts=batch.prompts,
                    tokens=run.tokens,
                    seconds=run.seconds,
                    first_token_seconds=run.first_token_seconds,
                    text_seconds=run.text_seconds,
                    joules=run.joules,
                )
            )
            add_counts(self.ledger.counts.setdefault(at(trial.name, concurrency), {}), run.results)
            self._note_plan(trial, concurrency)

    def _note_plan(self, trial: Trial, concurrency: int) -> None:
        """What the planner knows now, since another run may not get to know it again."""
        planner = trial.ensemble.planner_for(self.params)
        if trial.name == OURS and planner is not None and planner.chosen:
            self.ledger.plans[str(concurrency)] = planner.chosen
            for name, speed in theory_over_plain(self.trials, planner, self.params, concurrency).items():
                self.ledger.theory[at(name, concurrency)] = speed

    def _decode(self, trial: Trial, batch: Batch) -> None:
        check(trial.name, trial.ensemble.generate([self.questions[i].prompt for i in batch.prompts], self.params))

    # The self-test.

    def _checking(self) -> list[Step]:
        total = num_checks(self.ensemble)
        if len(self.ledger.checks) >= total:
            return []
        picked = balanced(self.questions, NUM_CHECKED_PROMPTS)
        effort = Effort(max_tokens=CHECKED_TOKENS, num_samples=NUM_SAMPLES)
        lines = self_test(self.ensemble, [self.questions[i].prompt for i in picked], effort)
        weight = 2 * CHECKED_TOKENS * NUM_CHECKED_PROMPTS
        # The lines come from one iterator, so an interrupted self-test starts again.
        self.ledger.checks.clear()
        return [Step("exactness", weight, partial(self._check, number, lines, picked)) for number in range(total)]

    def _check(self, number: int, lines: Iterator[Check], picked: Values[int]) -> None:
        line = next(lines)
        if line.error is not None:
            # What raised says nothing of exactness: a member may have run out of memory.
            raise InvalidPilot(f"the self-test of {line.schedule} failed: {line.error}. {KEPT}")
        is_sampled = line.p_value is not None
        self.ledger.checks[str(number)] = CheckRow(
            name=line.name,
            schedule=line.schedule,
            verification=line.verification,
            is_passed=line.is_passed,
            num_texts=None if is_sampled else len(picked),
            num_equal=None if is_sampled else len(picked) - len(line.differences),
            num_samples=NUM_SAMPLES if is_sampled else None,
            p_value=line.p_value,
            threshold=line.threshold,
            differences=tuple(
                DifferenceRow(
                    prompt=self.questions[picked[each.prompt_index]].id,
                    position=each.position,
                    gap=each.gap if math.isfinite(each.gap) else None,
                    is_tie=each.is_tie,
                )
                for each in line.differences
            ),
            error=line.error,
        )

    # Scores and perplexities.

    def _scored_trials(self) -> list[Trial]:
        """Single members, plain, what is on trial, and the softenings."""
        wanted = [trial for trial in self.trials if trial.name in (PLAIN, self.asked.ours) or trial.is_single]
        return wanted + self.relaxed

    def _scoring(self, trial: Trial) -> list[Step]:
        scores = self.ledger.scores.setdefault(trial.name, {})
        todo = [i for i, q in enumerate(self.questions) if q.is_scored and str(i) not in scores]
        return [
            Step("scores", self.asked.score_tokens * 8, partial(self._score, trial, indices))
            for indices in _chunks(todo)
        ]

    def _score(self, trial: Trial, indices: Values[int]) -> None:
        results = trial.ensemble.generate([self.questions[i].prompt for i in indices], self.score_params)
        check(trial.name, results)
        for i, result in zip(indices, results, strict=True):
            question = self.questions[i]
            assert question.reference is not None
            score = scorer(question.score)(result.text, question.reference)
            self.ledger.scores[trial.name][str(i)] = score

    def _texts(self) -> dict[str, Given]:
        """Those whose perplexity is taken; one that makes no token of its own has none."""
        tokenizer = self.ensemble.tokenizer
        if tokenizer is None:
            return {}
        found = {key: Given.of(tokenizer, *pair) for key, pair in self.asked.given_texts().items()}
        return {key: given for key, given in found.items() if given.tokens}

    def _weighing(self, trial: Trial) -> list[Step]:
        """The log-probabilities of given texts. Ours have plain's, since they follow one distribution."""
        if trial.name == self.asked.ours:
            return []
        kept = self.ledger.logprobs.setdefault(trial.name, {})
        todo = [key for key in self.texts if key not in kept]
        return [
            Step("perplexity", self.asked.score_tokens * 8, partial(self._weigh, trial, keys)) for keys in _chunks(todo)
        ]

    def _weigh(self, trial: Trial, keys: Values[str]) -> None:
        for key, logprob in zip(keys, given_logprobs(trial, [self.texts[key] for key in keys]), strict=True):
            self.ledger.logprobs[trial.name][key] = logprob


def _chunks(indices: list[T]) -> list[list[T]]:
    return [indices[start : start + TEXTS_A_STEP] for start in range(0, len(indices), TEXTS_A_STEP)]

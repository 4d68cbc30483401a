"""The pilot as steps: timed runs, the exactness self-test, scores and perplexities."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..errors import InvalidPilot
from ..prompts import Chat
from .batches import batches
from .effort import Effort
from .energy import Meter, find_meter
from .exactness import Check, num_checks, self_test
from .ledger import Ledger
from .memory import note_memory
from .methods import PlannedMethod, first_error, pilot_methods
from .perplexity import ReferenceText, text_logprobs
from .pilot_settings import PilotSettings
from .predictions import predictions
from .questions import balanced
from .relaxed import relaxed_methods
from .results import PLAIN, CheckRow, DifferenceRow
from .scoring import scorer
from .timing import RESUMABLE, PairedTiming, Step, Study, check

T = TypeVar("T")

# Sequences that are scored, or whose perplexity is measured, in one step.
SEQUENCES_A_STEP = 32
# Weight of such a step for the progress bar, in tokens of a timed sequence for each token of a scored one.
SCORING_WEIGHT = 8
# How much the self-test compares.
NUM_CHECKED_PROMPTS, CHECKED_TOKENS, NUM_SAMPLES = 6, 32, Effort.num_samples


@dataclass
class Pilot(Study):
    """What is measured of an ensemble on these questions; it goes to the ledger."""

    ensemble: Ensemble
    settings: PilotSettings
    ledger: Ledger
    meter: Meter = field(default_factory=find_meter)

    def __post_init__(self) -> None:
        settings = self.settings
        self.questions = settings.questions
        self.params = SamplingParams(max_tokens=settings.tokens, temperature=settings.temperature, ignore_eos=True)
        self.score_params = SamplingParams(
            max_tokens=settings.score_tokens, temperature=settings.score_temperature, stop=settings.stop
        )
        self.texts = self._reference_texts()
        self.methods = pilot_methods(self.ensemble, self.params)
        self.relaxed = relaxed_methods(self.ensemble, settings.criteria.relaxed, self.params)
        note_memory(self.ensemble, self.ledger)

    @property
    def candidate(self) -> Ensemble:
        """The ensemble under the candidate plan, which the self-test must test as it will run."""
        return next(method.ensemble for method in self.methods if method.name == self.settings.ours)

    def _reference_texts(self) -> dict[str, ReferenceText]:
        """Key in the ledger -> text, without those that have no token of their own."""
        tokenizer = self.ensemble.tokenizer
        if tokenizer is None:
            return {}
        texts = {
            key: ReferenceText.answering(tokenizer, prompt, text)
            if isinstance(prompt, Chat)
            else ReferenceText.of(tokenizer, prompt, text)
            for key, (prompt, text) in self.settings.reference_texts().items()
        }
        for text in texts.values():
            # Refused now, and not once everything else is measured: ids for a member that has a system message.
            self.ensemble.rendered(text.before)
        return {key: text for key, text in texts.items() if text.tokens}

    def run(self, on_step: Callable[[Step], None], should_stop: Callable[[], bool]) -> bool:
        def noted(step: Step) -> None:
            note_memory(self.ensemble, self.ledger)
            on_step(step)

        return super().run(noted, should_stop)

    def steps(self) -> list[Step]:
        steps: list[Step] = []
        for concurrency in sorted(self.settings.concurrencies):
            steps += self._timing("speed", self.methods, concurrency)
        steps += self._self_test()
        compared = [m for m in self.methods if m.name in (PLAIN, self.settings.ours) or m.is_single]
        for method in [*compared, *self.relaxed]:
            steps += [*self._scoring(method), *self._perplexity(method)]
        if self.relaxed:
            steps += self._timing("relaxed acceptance", self.relaxed, 1)
        return steps

    def _timing(self, phase: str, methods: Sequence[PlannedMethod], concurrency: int) -> list[Step]:
        timing = PairedTiming(
            ledger=self.ledger,
            methods=methods,
            prompts=[question.prompt for question in self.questions],
            batches=batches(self.questions, balanced(self.questions, self.settings.num_prompts), concurrency),
            concurrency=concurrency,
            repeats=self.settings.repeats,
            weight=self.settings.tokens,
            meter=self.meter,
            predict=partial(predictions, self.ensemble, self.params, methods, concurrency=concurrency),
        )
        return timing.steps(phase)

    def _self_test(self) -> list[Step]:
        """A step for each line; an interrupted self-test starts again, since its lines come from one iterator."""
        total = num_checks(self.candidate)
        if len(self.ledger.checks) >= total:
            return []
        compared = balanced(self.questions, NUM_CHECKED_PROMPTS)
        effort = Effort(max_tokens=CHECKED_TOKENS, num_samples=NUM_SAMPLES)
        lines = self_test(self.candidate, [self.questions[i].prompt for i in compared], effort)
        weight = 2 * CHECKED_TOKENS * NUM_CHECKED_PROMPTS
        return [
            Step(phase="exactness", weight=weight, run=partial(self._check, number, lines, compared))
            for number in range(total)
        ]

    def _check(self, number: int, lines: Iterator[Check], compared: Sequence[int]) -> None:
        """Run the next line. compared: indices of its prompts."""
        if number == 0:
            self.ledger.checks.clear()
        line = next(lines)
        if line.error is not None:
            # A sequence that failed, say for want of memory, is no evidence against exactness.
            raise InvalidPilot(f"the self-test of {line.schedule} failed: {line.error}. {RESUMABLE}")
        is_sampled = line.p_value is not None
        self.ledger.checks[str(number)] = CheckRow(
            name=line.name,
            schedule=line.schedule,
            verification=line.verification,
            is_passed=line.is_passed,
            num_texts=None if is_sampled else len(compared),
            num_equal=None if is_sampled else len(compared) - len(line.differences),
            num_samples=NUM_SAMPLES if is_sampled else None,
            p_value=line.p_value,
            threshold=line.threshold,
            differences=tuple(
                DifferenceRow(
                    prompt=self.questions[compared[each.prompt_index]].id,
                    position=each.position,
                    gap=each.gap if math.isfinite(each.gap) else None,
                    is_tie=each.is_tie,
                )
                for each in line.differences
            ),
            error=line.error,
        )

    def _scoring(self, method: PlannedMethod) -> list[Step]:
        scores = self.ledger.scores.setdefault(method.name, {})
        todo = [i for i, question in enumerate(self.questions) if question.is_scored and str(i) not in scores]
        return [self._quality_step("scores", partial(self._score, method, chunk)) for chunk in _chunks(todo)]

    def _score(self, method: PlannedMethod, indices: Sequence[int]) -> None:
        results = method.ensemble.generate([self.questions[i].prompt for i in indices], self.score_params)
        check(method.name, len(results), first_error(results))
        for i, result in zip(indices, results, strict=True):
            question = self.questions[i]
            assert question.reference is not None
            self.ledger.scores[method.name][str(i)] = scorer(question.score)(result.text, question.reference)

    def _perplexity(self, method: PlannedMethod) -> list[Step]:
        """None for ours: it follows plain's distribution, and so has plain's log-probabilities."""
        if method.name == self.settings.ours:
            return []
        known = self.ledger.logprobs.setdefault(method.name, {})
        todo = [key for key in self.texts if key not in known]
        return [self._quality_step("perplexity", partial(self._measure_texts, method, keys)) for keys in _chunks(todo)]

    def _measure_texts(self, method: PlannedMethod, keys: Sequence[str]) -> None:
        logprobs = text_logprobs(method, [self.texts[key] for key in keys])
        self.ledger.logprobs[method.name].update(zip(keys, logprobs, strict=True))

    def _quality_step(self, phase: str, run: Callable[[], None]) -> Step:
        return Step(phase=phase, weight=self.settings.score_tokens * SCORING_WEIGHT, run=run)


def _chunks(items: list[T]) -> list[list[T]]:
    return [items[start : start + SEQUENCES_A_STEP] for start in range(0, len(items), SEQUENCES_A_STEP)]

"""A study's steps, and its one timing loop: methods decode the same batches, interleaved, after a warm-up."""

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..core.counts import Counts
from ..ensemble import Prompt
from ..errors import CospecError, InvalidPilot, MemberFailed
from ..schedule.auto import Auto
from .batches import Batch
from .energy import Meter
from .ledger import Ledger, at
from .memory import note_peaks, release, reset_peaks
from .methods import Decoded, Method, reason
from .results import OURS, PLAIN, Measurement

# `auto` is warmed up until it has ended NUM_STEADY batches in a row with the same plan, at most MOST_WARM_UPS batches.
MOST_WARM_UPS, NUM_STEADY = 12, 3
RESUMABLE = (
    "What was measured before is kept: mend it, or ask for a lower --concurrency, and run the same command to go on"
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A part of a study after which its ledger is whole. phase: for the progress bar. weight: its share of the work."""

    phase: str
    weight: float
    run: Callable[[], None]


class Study(ABC):
    """What is measured step by step, so that it can be interrupted after any step and resumed from its ledger."""

    ledger: Ledger

    @abstractmethod
    def steps(self) -> list[Step]:
        """What is left to do, in order."""

    def run(self, on_step: Callable[[Step], None], should_stop: Callable[[], bool]) -> bool:
        """Run all steps that are left; whether they were finished. on_step: called after each. should_stop: asked
        before each."""
        if not self.ledger.started:
            self.ledger.started = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        for step in self.steps():
            if should_stop():
                return False
            started = time.perf_counter()
            step.run()
            self.ledger.seconds += time.perf_counter() - started
            on_step(step)
        return True


def until_steady(planner: Auto, decode: Iterator[object], num_steady: int) -> Iterator[str]:
    """Decode, item by item, until the planner's choice has been the same `num_steady` times in a row, or there are no
    more items. Yields the choice after each, which is empty before the planner has measured enough."""
    choices: list[str] = []
    for _ in decode:
        choices.append(planner.chosen or "")
        yield choices[-1]
        if planner.chosen and choices[-num_steady:] == [planner.chosen] * num_steady:
            return


# A method and a concurrency -> why it cannot decode so many sequences at once.
Failures = dict[tuple[str, int], str]
# Counts by method -> predicted speed over plain by method, of those that theory covers.
Predict = Callable[[Mapping[str, Counts]], Mapping[str, float]]


def no_theory(counts: Mapping[str, Counts]) -> Mapping[str, float]:
    """Predicts nothing."""
    return {}


@dataclass(frozen=True, kw_only=True)
class PairedTiming:
    """Methods that are to decode the same batches, each `repeats` times; every run is a measurement in the ledger.

    prompts: the study's, which batches index. concurrency: sequences of a batch. weight: of one decoded batch among the
    study's steps. predict: what theory predicts of these methods; asked after each batch that all have decoded.
    error_type: raised where a sequence fails, since the time of a run that failed says nothing.
    failures: where methods that raise, or fail, are noted instead, with the reason; they are not run again. `plain` one
    batch at a time, which all are compared with, still ends the study. None: every failure ends it.
    """

    ledger: Ledger
    methods: Sequence[Method]
    prompts: Sequence[Prompt]
    batches: Sequence[Batch]
    concurrency: int
    repeats: int
    weight: float = 1.0
    meter: Meter = field(default_factory=lambda: Meter(()))
    predict: Predict = no_theory
    error_type: type[CospecError] = InvalidPilot
    failures: Failures | None = None

    def steps(self, phase: str) -> list[Step]:
        """A step for each batch and repeat that some method was not measured on, after a warm-up of each such one."""
        every = [(batch, repeat) for batch in self.batches for repeat in range(self.repeats)]
        todo = [each for each in every if not all(self._is_timed(method, *each) for method in self.methods)]
        if not todo:
            return []
        first = list(dict.fromkeys(batch for batch, _ in todo))
        warm_ups = [
            Step(phase="warm-up", weight=self.weight, run=partial(self._attempt, method, self._warm_up, first))
            for method in self.methods
            if not all(self._is_timed(method, *each) for each in todo)
        ]
        weight = self.weight * len(self.methods)
        timed = [Step(phase=phase, weight=weight, run=partial(self._measure_all, *each)) for each in todo]
        return [*warm_ups, *timed]

    def _is_timed(self, method: Method, batch: Batch, repeat: int) -> bool:
        return self.ledger.is_timed(method.name, self.concurrency, batch.number, repeat)

    def _warm_up(self, method: Method, batches: Sequence[Batch]) -> None:
        """Decode a batch that is not measured; a planner's method decodes more, until its choice is steady."""
        with method.held():
            self._decode(method, batches[0])
        if method.planner is not None:
            more = itertools.islice(itertools.cycle(batches), MOST_WARM_UPS)
            decoded = (self._decode(method, batch) for batch in more)
            for _ in until_steady(method.planner, decoded, NUM_STEADY):
                pass

    def _measure_all(self, batch: Batch, repeat: int) -> None:
        # The order rotates from run to run, so that a machine that slows down as it heats up favours no method.
        first = (batch.number + repeat) % len(self.methods)
        for method in [*self.methods[first:], *self.methods[:first]]:
            if not self._is_timed(method, batch, repeat):
                self._attempt(method, self._measure, batch, repeat)
        self._note_theory()

    def _attempt(self, method: Method, run: Callable[..., None], *args: Any) -> None:
        """`run(method, *args)`, unless the method has failed before."""
        if self.failures is None:
            run(method, *args)
        elif not has_failed(self.failures, method.name, self.concurrency):
            why = _why_not(partial(run, method, *args))
            if (method.name, self.concurrency) == (PLAIN, 1):
                check(PLAIN, 1, why, self.error_type)
            elif why is not None:
                self.failures[method.name, self.concurrency] = why
                release()

    def _note_theory(self) -> None:
        """Keep the plan that `auto` chose and what theory predicts: a resumed run would have to measure them again."""
        keys = {method.name: at(method.name, self.concurrency) for method in self.methods}
        for method in self.methods:
            if method.name == OURS and method.planner is not None and method.planner.chosen:
                self.ledger.plans[str(self.concurrency)] = method.planner.chosen
        counts = {name: self.ledger.counts[key] for name, key in keys.items() if key in self.ledger.counts}
        for name, speed in self.predict(counts).items():
            self.ledger.theory[keys[name]] = speed

    def _measure(self, method: Method, batch: Batch, repeat: int) -> None:
        with method.held():
            self._measure_held(method, batch, repeat)

    def _measure_held(self, method: Method, batch: Batch, repeat: int) -> None:
        ledger, key = self.ledger, at(method.name, self.concurrency)
        reset_peaks()
        joules = self.meter.read()
        started = time.perf_counter()
        decoded = self._decode(method, batch)
        seconds = time.perf_counter() - started
        ledger.measurements.append(
            Measurement(
                method=method.name,
                concurrency=self.concurrency,
                batch=batch.number,
                repeat=repeat,
                category=batch.category,
                prompts=batch.prompts,
                tokens=decoded.tokens,
                seconds=seconds,
                first_token_seconds=decoded.first_token_seconds,
                text_seconds=decoded.text_seconds,
                joules=self.meter.since(joules),
            )
        )
        if decoded.counts is not None:
            ledger.counts.setdefault(key, Counts()).add(decoded.counts)
        note_peaks(ledger, key)

    def _decode(self, method: Method, batch: Batch) -> Decoded:
        decoded = method.decode([self.prompts[i] for i in batch.prompts])
        if decoded.error is not None and self.failures is not None:
            raise MemberFailed(decoded.error)
        if decoded.tokens == 0 and self.failures is not None:
            raise MemberFailed("it decoded no token")
        check(method.name, len(batch.prompts), decoded.error, self.error_type)
        return decoded


def has_failed(failures: Failures, name: str, concurrency: int) -> bool:
    """Whether a method failed with so many sequences at once, or with one already."""
    return not failures.keys().isdisjoint({(name, 1), (name, concurrency)})


def _why_not(run: Callable[[], None]) -> str | None:
    """Why it raised, or None. The error itself is dropped: its traceback holds tensors."""
    try:
        run()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # peers and plug-ins may raise anything, also what is no Exception
        return reason(error)
    return None


def check(name: str, num: int, error: str | None, error_type: type[CospecError] = InvalidPilot) -> None:
    """Raise `error_type` if one of the `num` sequences that a method decoded at once failed."""
    if error is not None:
        raise error_type(f"{name} failed with {num} concurrent sequence{'s' if num > 1 else ''}: {error}. {RESUMABLE}")

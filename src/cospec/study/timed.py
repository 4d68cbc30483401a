"""One run, timed: when each text had its first token and its last, and what it cost."""

import time
from collections.abc import Sequence as Values
from dataclasses import dataclass

from ..core.events import Result
from ..core.params import SamplingParams
from ..errors import InvalidPilot
from .energy import Meter
from .trials import Trial

KEPT = "What was measured before is kept: mend it, or ask for a lower --concurrency, and run the same command to go on"


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A batch decoded at once; a text each in first_token_seconds and text_seconds, from the start of the batch."""

    results: list[Result]
    seconds: float
    first_token_seconds: tuple[float, ...]
    text_seconds: tuple[float, ...]
    joules: float | None

    @property
    def tokens(self) -> int:
        return sum(result.completion_tokens for result in self.results)


def timed(trial: Trial, prompts: Values[str], params: SamplingParams, meter: Meter) -> Timed:
    """Decode them at once. Raises InvalidPilot where a text fails: its time would say nothing."""
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    results: dict[int, Result] = {}
    before = meter.read()
    started = time.perf_counter()
    for event in trial.ensemble.stream(list(prompts), params):
        now = time.perf_counter() - started
        if event.tokens:
            first.setdefault(event.prompt_index, now)
        if event.result is not None:
            last[event.prompt_index], results[event.prompt_index] = now, event.result
    seconds = time.perf_counter() - started
    order = range(len(prompts))
    check(trial.name, [results[i] for i in order])
    return Timed(
        results=[results[i] for i in order],
        seconds=seconds,
        first_token_seconds=tuple(first[i] for i in order),
        text_seconds=tuple(last[i] for i in order),
        joules=meter.since(before),
    )


def check(name: str, results: Values[Result]) -> None:
    """Raises InvalidPilot if one of these texts failed."""
    error = next((result.error for result in results if result.error), None)
    if error is not None:
        raise InvalidPilot(
            f"{name} failed with {len(results)} text{'s' if len(results) > 1 else ''} at once: {error}. {KEPT}"
        )

"""The measuring itself: every method on every prompt, one after the other, and what was measured kept as it comes."""

import json
import statistics
import time
from collections.abc import Callable
from collections.abc import Sequence as Values
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.events import Result
from ..errors import InvalidBenchmark
from ..storage import keep
from . import peaks
from .methods import Method


@dataclass
class Study:
    """Measurements so far. seconds: method -> prompt's index -> seconds a token, the median of the repeats.

    counts: method -> what its texts cost, summed. predictions: method -> speed over plain that theory gives it.
    concurrency: method -> texts at once -> tokens a second. sweeps: setting -> its value -> as in `seconds`.
    peaks: method -> where -> the most bytes that were held there while it ran, the models included.
    """

    settings: dict[str, Any]
    seconds: dict[str, dict[int, float]] = field(default_factory=dict)
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    predictions: dict[str, float] = field(default_factory=dict)
    concurrency: dict[str, dict[int, float]] = field(default_factory=dict)
    sweeps: dict[str, dict[float, dict[str, dict[int, float]]]] = field(default_factory=dict)
    peaks: dict[str, dict[str, int]] = field(default_factory=dict)

    def is_measured(self, prompt: int, methods: Values[Method]) -> bool:
        return all(prompt in self.seconds.get(method.name, {}) for method in methods)

    def save(self, path: Path) -> None:
        """Whole or not at all. Raises CospecError where it cannot be written."""
        keep(path, json.dumps(vars(self), indent=1))

    @classmethod
    def load(cls, path: Path, settings: dict[str, Any]) -> "Study":
        """What an earlier run of the same settings kept, or an empty study. Raises InvalidBenchmark for another's."""
        if not path.exists():
            return cls(settings)
        try:
            kept = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise InvalidBenchmark(
                f"{path} holds no results of a benchmark ({error}); give --out another folder"
            ) from None
        if kept.settings != settings:
            raise InvalidBenchmark(f"{path} was measured with other settings; give --out another folder, or remove it")
        kept.seconds = {name: _by_number(runs) for name, runs in kept.seconds.items()}
        kept.concurrency = {name: _by_number(runs) for name, runs in kept.concurrency.items()}
        kept.sweeps = {
            setting: {
                float(value): {name: _by_number(runs) for name, runs in seconds.items()}
                for value, seconds in values.items()
            }
            for setting, values in kept.sweeps.items()
        }
        return kept

    def at(self, setting: str, value: float) -> "Study":
        """What is measured at one value of a setting; it is kept with this study."""
        seconds = self.sweeps.setdefault(setting, {}).setdefault(value, {})
        return Study(self.settings, seconds)


def _by_number(runs: dict[Any, float]) -> dict[int, float]:
    return {int(key): value for key, value in runs.items()}


def measure(
    study: Study,
    methods: Values[Method],
    prompts: Values[str],
    repeats: int,
    on_prompt: Callable[[], None],
    should_stop: Callable[[], bool],
) -> None:
    """Time all methods on each prompt that one of them was not yet measured on, interleaved, after a warm-up."""
    todo = [index for index in range(len(prompts)) if not study.is_measured(index, methods)]
    for method in methods if todo else ():
        if should_stop():
            return
        method.run(prompts[todo[0] :][:1])
    for index in todo:
        if should_stop():
            return
        _measure_prompt(study, methods, index, prompts[index], repeats)
        on_prompt()


def _measure_prompt(study: Study, methods: Values[Method], index: int, prompt: str, repeats: int) -> None:
    runs: dict[str, list[float]] = {method.name: [] for method in methods}
    for _ in range(repeats):
        for method in methods:
            peaks.forget()
            started = time.perf_counter()
            num_tokens, results = method.run([prompt])
            runs[method.name].append((time.perf_counter() - started) / num_tokens)
            add_counts(study.counts.setdefault(method.name, {}), results)
            peaks.note(study.peaks.setdefault(method.name, {}))
    for name, own in runs.items():
        study.seconds.setdefault(name, {})[index] = statistics.median(own)


def measure_concurrency(
    study: Study,
    methods: Values[Method],
    prompts: Values[str],
    levels: Values[int],
    repeats: int,
    on_level: Callable[[], None],
    should_stop: Callable[[], bool],
) -> None:
    """Tokens a second of all texts together, the median of the repeats, so many at once; interleaved."""
    batched = [method for method in methods if method.is_batched]
    for level in levels:
        batch = [prompts[i % len(prompts)] for i in range(level)]
        if should_stop() or all(level in study.concurrency.get(method.name, {}) for method in batched):
            continue
        speeds: dict[str, list[float]] = {method.name: [] for method in batched}
        for repeat in range(repeats + 1):
            for method in batched:
                started = time.perf_counter()
                num_tokens, _ = method.run(batch)
                if repeat:
                    speeds[method.name].append(num_tokens / (time.perf_counter() - started))
        for name, own in speeds.items():
            study.concurrency.setdefault(name, {})[level] = statistics.median(own)
        on_level()


def add_counts(total: dict[str, Any], results: Values[Result]) -> None:
    """Add what these texts cost: tokens, seconds, calls and drafts, by name."""
    for result in results:
        lanes = result.members | result.drafters
        _add(total, "tokens", result.completion_tokens)
        _add(total, "seconds", result.seconds)
        _add(total, "seconds in models", sum(lane.seconds for lane in lanes.values()))
        for name, lane in lanes.items():
            _add(total.setdefault("calls", {}), name, lane.calls)
            _add(total.setdefault("seconds by lane", {}), name, lane.seconds)
            _add(total, "prompt seconds", lane.prompt_seconds)
        for name, proposer in result.proposers.items():
            _add(total.setdefault("accepted", {}), name, proposer.accepted)
            _add(total.setdefault("proposed", {}), name, proposer.proposed)
            for key in ("proposed_at", "accepted_at"):
                counts = total.setdefault(key, {}).setdefault(name, {})
                for place, count in enumerate(getattr(proposer, key)):
                    _add(counts, str(place), count)
        if result.plan:
            _add(total.setdefault("plans", {}), result.plan, 1)


def _add(total: dict[str, Any], key: str, value: float) -> None:
    total[key] = total.get(key, 0) + value

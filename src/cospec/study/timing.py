"""Paired timings: every method decodes every prompt, one after the other, several times over."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .intervals import studentized


@dataclass(frozen=True)
class Ratio:
    """Geometric mean of per-prompt ratios of seconds, with its 95 % bootstrap-t interval over prompts; of fewer than
    four, their range."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ({self.low:.2f}-{self.high:.2f})"


def interleaved(
    methods: Mapping[str, Callable[[str], float]], prompts: Iterable[str], repeats: int, on_run: Callable[[], None]
) -> dict[str, list[float]]:
    """Seconds a prompt of each method, the median of its repeats; a method is called with a prompt and times itself."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for prompt in prompts:
        runs: dict[str, list[float]] = {name: [] for name in methods}
        for _ in range(repeats):
            for name, method in methods.items():
                runs[name].append(method(prompt))
                on_run()
        for name, own in runs.items():
            seconds[name].append(statistics.median(own))
    return seconds


def ratio(over: list[float], under: list[float]) -> Ratio:
    """How many times longer `over` takes than `under`, prompt by prompt."""
    logs = [math.log(a / b) for a, b in zip(over, under, strict=True)]
    low, high = studentized(logs) or (min(logs), max(logs))
    return Ratio(*map(math.exp, (statistics.fmean(logs), low, high)))


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started

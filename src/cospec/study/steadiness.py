"""Whether something else used the machine while it was measured: the same work then takes now this long, now that."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from .results import PLAIN, SINGLE, Environment, Measurement

# Repeated runs of the same work, slowest over fastest. On a quiet machine they differ by a few per cent.
MOST_SPREAD = 1.25
# What counts of repeated runs, their median, over the fastest. One run of two that was held up shows in it.
MOST_HELD_UP = 1.5
# How far a measured speed may be from the predicted one, as a factor.
MOST_OFF = 1.5


@dataclass(frozen=True, kw_only=True)
class Steadiness:
    """spread: of repeated runs of the same work, slowest over fastest, the median of all such; None where nothing was
    repeated. held_up: of one work the median of its runs over the fastest, the largest of all such. off: predicted over
    measured speed, by plan. load: processes that wanted to run, for each core, on the average of the last minute; None
    where the system does not say."""

    spread: float | None = None
    held_up: float | None = None
    off: Mapping[str, float] | None = None
    load: float | None = None

    @property
    def disturbance(self) -> str | None:
        """What says that the machine was busy with something else, in words; None where nothing does."""
        said = []
        if self.spread is not None and self.spread > MOST_SPREAD:
            said.append(f"the same work took up to {self.spread:.2f} times as long (quiet: below {MOST_SPREAD})")
        if self.held_up is not None and self.held_up > MOST_HELD_UP:
            said.append(f"what counts of one text is {self.held_up:.2f} times its fastest run (quiet: near 1)")
        for plan, factor in (self.off or {}).items():
            if not 1 / MOST_OFF <= factor <= MOST_OFF:
                said.append(f"predicted over measured speed of '{plan}' is {factor:.2f} (quiet: near 1)")
        if said and self.load is not None:
            said.append(f"{self.load:.1f} processes a core wanted to run")
        return "; ".join(said) or None

    @property
    def advice(self) -> str | None:
        """The same, and what to do."""
        return self.disturbance and f"the machine was disturbed: {self.disturbance}. Measure again while it is quiet"


def steadiness_told(machine: Environment) -> Steadiness:
    """What a study's results say of it."""
    return Steadiness(spread=machine.spread, held_up=machine.held_up, load=machine.load)


def load_a_core() -> float | None:
    """Processes that wanted to run, for each core, this one included, on the average of the last minute."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return None


def spread_of(seconds: Mapping[object, Iterable[float]]) -> float | None:
    """seconds: of each kind of work, those of its runs. The median of slowest over fastest; None where no work has two
    runs."""
    found = [max(each) / min(each) for each in _repeated(seconds)]
    return median(found) if found else None


def held_up(seconds: Mapping[object, Iterable[float]]) -> float | None:
    """The largest of all works' median over fastest run; None where no work has two runs."""
    return max((median(each) / min(each) for each in _repeated(seconds)), default=None)


def _repeated(seconds: Mapping[object, Iterable[float]]) -> list[list[float]]:
    runs = [[max(run, 1e-12) for run in each] for each in seconds.values()]
    return [each for each in runs if len(each) > 1]


def steadiness(measurements: Iterable[Measurement]) -> Steadiness:
    """Of a study, by the runs of `plain` and of single members: each of their tokens is a forward pass of each model,
    so that another sample takes as long."""
    seconds: dict[object, list[float]] = defaultdict(list)
    for run in measurements:
        if run.method == PLAIN or run.method.startswith(SINGLE):
            seconds[run.method, run.concurrency, run.batch].append(run.seconds / max(run.tokens, 1))
    return Steadiness(spread=spread_of(seconds), held_up=held_up(seconds), load=load_a_core())

"""Whether a service still performs as in its pilot: acceptance and latency against the criteria and the pilot."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from .criteria import Limits
from .metrics import Histogram, Service
from .results import Results
from .verdict import Served, served

# Fewer tokens, drafts or sequences than this are too few for a status.
FEWEST_TOKENS, FEWEST_DRAFTS, FEWEST_TEXTS = 200, 100, 10
_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

Watched = Literal["steady", "drifted", "too few"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One figure in service. name: acceptance, ms_per_token or first_token_ms, with a percentile where it is one.

    pilot: the pilot's figure, where it has one. now: the window's; of a percentile the lower bound of its bucket.
    limit: what `now` must not pass, from the criteria (is_criterion), or from the pilot's figure and the tolerance.
    """

    name: str
    pilot: float | None
    now: float | None
    limit: float
    is_criterion: bool
    status: Watched


@dataclass(frozen=True, kw_only=True)
class Watch:
    """A window of service. tokens: decoded in it. schedule: that the server reports; None if it reports none."""

    tokens: float
    schedule: str | None
    readings: tuple[Reading, ...]

    @property
    def has_drifted(self) -> bool:
        return any(reading.status == "drifted" for reading in self.readings)

    def to_dict(self) -> dict[str, object]:
        """All of it, ready for JSON."""
        return {"drifted": self.has_drifted, **asdict(self)}


def watch(results: Results, window: Service, tolerance: float, schedule: str | None = None) -> Watch:
    """Compare a window of service with the criteria, and with the pilot's figures of the plan that went into service.

    tolerance: the share by which a figure may be worse than the pilot's.
    """
    plan = served(results)
    readings = (*_acceptance(results, plan, window, tolerance), *_latencies(results, plan, window, tolerance))
    return Watch(tokens=window.tokens, schedule=schedule, readings=readings)


def _acceptance(results: Results, plan: Served, window: Service, tolerance: float) -> Iterator[Reading]:
    row = results.mechanism.row(plan.method, plan.concurrency)
    pilot = row.acceptance if row else None
    proposed = sum(window.proposed.values())
    now = sum(window.accepted.values()) / proposed if proposed else None
    floor = None if pilot is None else pilot * (1 - tolerance)
    for limit, is_criterion in ((results.settings.criteria.min_acceptance, True), (floor, False)):
        if limit is not None:
            is_steady = now is None or now >= limit
            status = _status(now, is_steady, proposed >= FEWEST_DRAFTS)
            yield Reading(
                name="acceptance", pilot=pilot, now=now, limit=limit, is_criterion=is_criterion, status=status
            )


def _latencies(results: Results, plan: Served, window: Service, tolerance: float) -> Iterator[Reading]:
    criteria = results.settings.criteria
    yield from _percentiles("ms_per_token", criteria.max_ms_per_token, window.per_text)
    pilot = _between_tokens(results, plan)
    if pilot is not None:
        now, limit = _ms(window.between_tokens.mean), pilot * (1 + tolerance)
        status = _status(now, now is None or now <= limit, window.tokens >= FEWEST_TOKENS)
        yield Reading(name="ms_per_token", pilot=pilot, now=now, limit=limit, is_criterion=False, status=status)
    yield from _percentiles("first_token_ms", criteria.max_first_token_ms, window.to_first_token)


def _between_tokens(results: Results, plan: Served) -> float | None:
    """The pilot's mean milliseconds between tokens: like a server's inter-token latency, without the first token's."""
    wanted = (plan.method, plan.concurrency)
    runs = [run for run in results.measurements if (run.method, run.concurrency) == wanted]
    seconds = sum(sum(run.text_seconds) - sum(run.first_token_seconds) for run in runs)
    num_gaps = sum(run.tokens - len(run.prompts) for run in runs)
    return 1e3 * seconds / num_gaps if num_gaps else None


def _percentiles(name: str, limits: Limits, found: Histogram) -> Iterator[Reading]:
    for percentile, share in _SHARES.items():
        limit = getattr(limits, percentile)
        if limit is not None:
            now = _ms(found.at_least(share))
            # Every value of a bucket lies above its lower bound.
            status = _status(now, now is None or now < limit, found.count >= FEWEST_TEXTS)
            yield Reading(
                name=f"{name}.{percentile}", pilot=None, now=now, limit=limit, is_criterion=True, status=status
            )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _status(now: float | None, is_steady: bool, is_enough: bool) -> Watched:
    return "too few" if now is None or not is_enough else "steady" if is_steady else "drifted"

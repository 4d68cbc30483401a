"""Whether a service still does what its pilot did: acceptance and speed, held against the criteria and the pilot."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from .criteria import Limits
from .metrics import Histogram, Service
from .results import Results
from .verdict import Served, served

# Fewer tokens, drafts or texts than this say nothing yet.
FEWEST_TOKENS, FEWEST_DRAFTS, FEWEST_TEXTS = 200, 100, 10
_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

Watched = Literal["steady", "drifted", "too few"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One figure in service. name: acceptance, ms_per_token or first_token_ms, with a percentile where it is one.

    now: of a percentile the least that it may be, since a histogram tells no more. limit: what it must not pass, from
    the criteria, or from the pilot's figure and the tolerance. is_criterion: which.
    """

    name: str
    pilot: float | None
    now: float | None
    limit: float
    is_criterion: bool
    status: Watched


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What was read off a window of service. tokens: decoded in it. schedule: that the service runs under, if told."""

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
    """Hold a window of service against what the pilot measured of the plan that it wrote for service.

    tolerance: by what share a figure may be worse than the pilot's.
    """
    plan = served(results)
    readings = (*_acceptance(results, plan, window, tolerance), *_latencies(results, plan, window, tolerance))
    return Watch(tokens=window.tokens, schedule=schedule, readings=readings)


def _acceptance(results: Results, plan: Served, window: Service, tolerance: float) -> Iterator[Reading]:
    row = results.mechanism.row(plan.method, plan.concurrency)
    in_pilot = sum(each.proposed for each in row.proposers) if row else 0
    pilot = sum(each.accepted for each in row.proposers) / in_pilot if row and in_pilot else None
    proposed = sum(window.proposed.values())
    now = sum(window.accepted.values()) / proposed if proposed else None
    is_enough = proposed >= FEWEST_DRAFTS
    criterion = results.settings.criteria.min_acceptance
    if criterion is not None:
        is_steady = now is None or now >= criterion
        yield _reading("acceptance", pilot, now, criterion, is_steady, is_enough, is_criterion=True)
    if pilot is not None:
        floor = pilot * (1 - tolerance)
        yield _reading("acceptance", pilot, now, floor, now is None or now >= floor, is_enough, is_criterion=False)


def _latencies(results: Results, plan: Served, window: Service, tolerance: float) -> Iterator[Reading]:
    criteria = results.settings.criteria
    is_enough = window.per_text.count >= FEWEST_TEXTS
    yield from _percentiles("ms_per_token", criteria.max_ms_per_token, window.per_text, is_enough)
    pilot = _between_tokens(results, plan)
    if pilot is not None:
        now, ceiling = _ms(window.between_tokens.mean), pilot * (1 + tolerance)
        is_enough = window.tokens >= FEWEST_TOKENS
        is_steady = now is None or now <= ceiling
        yield _reading("ms_per_token", pilot, now, ceiling, is_steady, is_enough, is_criterion=False)
    is_enough = window.to_first_token.count >= FEWEST_TEXTS
    yield from _percentiles("first_token_ms", criteria.max_first_token_ms, window.to_first_token, is_enough)


def _between_tokens(results: Results, plan: Served) -> float | None:
    """The pilot's mean milliseconds from one token to the next, which leaves out those to the first, as a server's."""
    wanted = (plan.method, plan.concurrency)
    runs = [run for run in results.measurements if (run.method, run.concurrency) == wanted]
    seconds = sum(sum(run.text_seconds) - sum(run.first_token_seconds) for run in runs)
    num_gaps = sum(run.tokens - len(run.prompts) for run in runs)
    return 1e3 * seconds / num_gaps if num_gaps else None


def _percentiles(name: str, limits: Limits, found: Histogram, is_enough: bool) -> Iterator[Reading]:
    for percentile, share in _SHARES.items():
        limit = getattr(limits, percentile)
        if limit is not None:
            now = _ms(found.at_least(share))
            # What lies in a bucket lies above its lower bound.
            is_steady = now is None or now < limit
            yield _reading(f"{name}.{percentile}", None, now, limit, is_steady, is_enough, is_criterion=True)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _reading(
    name: str,
    pilot: float | None,
    now: float | None,
    limit: float,
    is_steady: bool,
    is_enough: bool,
    *,
    is_criterion: bool,
) -> Reading:
    status: Watched = "too few" if now is None or not is_enough else "steady" if is_steady else "drifted"
    return Reading(name=name, pilot=pilot, now=now, limit=limit, is_criterion=is_criterion, status=status)

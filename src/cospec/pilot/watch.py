"""Whether a service still does what its pilot did: acceptance and speed, held against the criteria and the pilot."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from .criteria import Limits
from .metrics import Histogram, Service
from .results import Results

# Fewer tokens, drafts or texts than this say nothing yet.
FEWEST_TOKENS, FEWEST_DRAFTS, FEWEST_TEXTS = 200, 100, 10
_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

Watched = Literal["steady", "drifted", "too few"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One figure in service. name: acceptance, ms_per_token or first_token_ms, with a percentile where it is one.

    limit: what it must not pass, from the criteria, or from the pilot's figure and the tolerance. is_criterion: which.
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
    """Hold a window of service against the pilot, at its planned concurrency.

    tolerance: by what share a figure may be worse than the pilot's.
    """
    readings = (*_acceptance(results, window, tolerance), *_latencies(results, window, tolerance))
    return Watch(tokens=window.tokens, schedule=schedule, readings=readings)


def _acceptance(results: Results, window: Service, tolerance: float) -> Iterator[Reading]:
    row = results.mechanism.row(results.settings.ours, results.verdict.concurrency)
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


def _latencies(results: Results, window: Service, tolerance: float) -> Iterator[Reading]:
    row = results.speed.row(results.settings.ours, results.verdict.concurrency)
    criteria = results.settings.criteria
    is_enough = window.tokens >= FEWEST_TOKENS
    # The mean between tokens leaves the first one out, and so is the pilot's without its first tokens, about.
    pilot = row.ms_per_token.mean if row else None
    yield from _at_most("ms_per_token", criteria.max_ms_per_token, window.between_tokens, pilot, tolerance, is_enough)
    is_enough = window.to_first_token.count >= FEWEST_TEXTS
    yield from _at_most(
        "first_token_ms", criteria.max_first_token_ms, window.to_first_token, None, tolerance, is_enough
    )


def _at_most(
    name: str, limits: Limits, found: Histogram, pilot: float | None, tolerance: float, is_enough: bool
) -> Iterator[Reading]:
    for percentile, share in _SHARES.items():
        limit = getattr(limits, percentile)
        if limit is not None:
            now = _ms(found.quantile(share))
            is_steady = now is None or now <= limit
            yield _reading(f"{name}.{percentile}", None, now, limit, is_steady, is_enough, is_criterion=True)
    if pilot is not None:
        now, ceiling = _ms(found.mean), pilot * (1 + tolerance)
        is_steady = now is None or now <= ceiling
        yield _reading(name, pilot, now, ceiling, is_steady, is_enough, is_criterion=False)


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

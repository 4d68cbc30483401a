"""Whether a service still performs as in its pilot: acceptance and latency against the criteria and the pilot."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from ..errors import InvalidPilot
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
    """A window of service. tokens: decoded in it. schedule: that the server reports; None if it reports none.
    is_restarted: the server's counts went back, so that they are all since its start."""

    tokens: float
    schedule: str | None
    readings: tuple[Reading, ...]
    is_restarted: bool = False

    @property
    def has_drifted(self) -> bool:
        return any(reading.status == "drifted" for reading in self.readings)

    @property
    def status(self) -> Watched:
        """Of the window: drifted if any figure has; too few where too little was decoded for any figure to say so."""
        if self.has_drifted:
            return "drifted"
        is_enough = self.tokens >= FEWEST_TOKENS and any(reading.status == "steady" for reading in self.readings)
        return "steady" if is_enough else "too few"

    def to_dict(self) -> dict[str, object]:
        """All of it, ready for JSON."""
        return {"status": self.status, "drifted": self.has_drifted, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class ServedEnsemble:
    """What a server says that it decodes. target: as a formula; None where it says none. schedule: likewise."""

    members: tuple[str, ...]
    drafters: tuple[str, ...]
    target: str | None
    schedule: str | None

    def __str__(self) -> str:
        return described(self.members, self.target, self.drafters)


def described(members: Sequence[str], target: str | None, drafters: Sequence[str]) -> str:
    """In one line."""
    drafted = f", drafters {', '.join(drafters)}" if drafters else ", no drafter"
    return f"{' + '.join(members)}{f' ({target})' if target else ''}{drafted}"


class OtherEnsemble(InvalidPilot):
    """A server that decodes something else than the pilot measured."""


def same(results: Results, models: Mapping[str, ServedEnsemble]) -> str:
    """The name of the served model that the pilot measured. Raises OtherEnsemble, which names both, where none is.

    A file that a pilot writes leaves out drafters that its plan has no use for.
    """
    settings, plan = results.settings, served(results)
    row = results.mechanism.row(plan.method, plan.concurrency)
    used = {each.name for each in row.proposers} & {*settings.drafters} if row else set()
    for name, model in models.items():
        is_target = model.target in (None, settings.target)
        if model.members == settings.members and is_target and used <= {*model.drafters} <= {*settings.drafters}:
            return name
    decoded = "; ".join(map(str, models.values())) or "nothing"
    measured = described(settings.members, settings.target, settings.drafters)
    raise OtherEnsemble(
        f"the server decodes {decoded}, and the pilot measured {measured}; give the results.json of the server's own "
        "pilot as --pilot, or the address of the server that this pilot is of"
    )


def watch(results: Results, window: Service, tolerance: float, schedule: str | None = None) -> Watch:
    """Compare a window of service with the criteria, and with the pilot's figures of the plan that went into service.

    tolerance: the share by which a figure may be worse than the pilot's.
    """
    plan = served(results)
    readings = (*_acceptance(results, plan, window, tolerance), *_latencies(results, plan, window, tolerance))
    return Watch(tokens=window.tokens, schedule=schedule, readings=readings, is_restarted=window.is_restarted)


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

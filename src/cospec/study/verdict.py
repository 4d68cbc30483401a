"""The criteria, judged by what was measured: rule by rule, and go or no-go."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal

from .criteria import Criteria, Limits
from .results import (
    Cost,
    Decision,
    Interval,
    Mechanism,
    Percentiles,
    QualityGained,
    QualityKept,
    Reason,
    Results,
    Rule,
    ScoreComparison,
    Speed,
    Status,
    Verdict,
)

GIB = 2**30
# Whether the ensemble is better than its best single member. "not shown": no interval lies to one side.
Gain = Literal["gained", "not shown", "worse", "not measured"]
Unit = Literal["x", "ms", "share", "score", "money", "GiB", ""]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the rules are judged by. ours: the candidate plan."""

    ours: str
    speed: Speed
    mechanism: Mechanism
    kept: QualityKept
    gained: QualityGained
    cost: Cost

    @classmethod
    def of(cls, results: Results, method: str) -> "Evidence":
        """The measurements of that method in a finished study."""
        return cls(
            ours=method,
            speed=results.speed,
            mechanism=results.mechanism,
            kept=results.kept,
            gained=results.gained,
            cost=results.cost,
        )

    @property
    def concurrencies(self) -> list[int]:
        """Those that were timed."""
        return sorted({row.concurrency for row in self.speed.rows if row.method == self.ours})


def judge(criteria: Criteria, evidence: Evidence, *, is_finished: bool = True) -> Verdict:
    """What the required rules come to at the planned concurrency; see Verdict. is_finished: whether the study is."""
    planned = criteria.planned_concurrency
    rules = _rules(criteria, evidence, planned)
    blocking, unshown, unmeasured = (_required(rules, status) for status in ("not met", "not shown", "not measured"))
    up_to = _up_to(criteria, evidence)
    decision: Decision = "go" if _are_met(rules) else "go up to" if up_to else "no-go" if blocking else "not decided"
    return Verdict(
        decision=decision if is_finished else "not decided",
        concurrency=planned,
        up_to=up_to,
        rules=rules,
        blocking=blocking,
        unshown=unshown,
        unmeasured=unmeasured,
    )


def _required(rules: Iterable[Rule], status: Status) -> tuple[str, ...]:
    return tuple(rule.name for rule in rules if rule.is_required and rule.status == status)


def in_words(verdict: Verdict) -> str:
    """Such as `GO UP TO 4 concurrent sequences`."""
    up_to = f" {verdict.up_to} concurrent sequences" if verdict.decision == "go up to" else ""
    return verdict.decision.upper() + up_to


@dataclass(frozen=True, kw_only=True)
class Served:
    """The method that goes into service, and its verdict."""

    method: str
    verdict: Verdict

    @property
    def concurrency(self) -> int:
        """Concurrent sequences in service: those planned, or the most at which the method met the criteria."""
        return self.verdict.up_to if self.verdict.decision == "go up to" else self.verdict.concurrency


def served(results: Results) -> Served:
    """The candidate plan, unless another was faster by its whole interval and is a GO by the same criteria."""
    ours, best = results.settings.ours, results.speed.best
    if best != ours:
        verdict = judge(results.settings.criteria, Evidence.of(results, best))
        if verdict.decision == "go":
            return Served(method=best, verdict=verdict)
    return Served(method=ours, verdict=results.verdict)


def gain(gained: QualityGained) -> Gain:
    """Whether the ensemble is better than its best single member, by score and perplexity together."""
    measured = ((gained.score_gain, 0), (gained.perplexity_gain, 1))
    sides = {found.side(level) for found, level in measured if found is not None}
    if not sides:
        return "not measured"
    found_better, found_worse = "above" in sides, "below" in sides
    return "not shown" if found_better == found_worse else "gained" if found_better else "worse"


def _up_to(criteria: Criteria, evidence: Evidence) -> int:
    """From the planned concurrency up while the rules are met; where they are not there, from the lowest up to it."""
    planned, measured = criteria.planned_concurrency, evidence.concurrencies

    def is_met(concurrency: int) -> bool:
        return _are_met(_rules(criteria, evidence, concurrency))

    levels = [n for n in measured if n >= planned] if is_met(planned) else [n for n in measured if n < planned]
    return max(takewhile(is_met, levels), default=0)


def _are_met(rules: Iterable[Rule]) -> bool:
    return all(rule.status == "met" for rule in rules if rule.is_required)


def _rules(criteria: Criteria, evidence: Evidence, concurrency: int) -> tuple[Rule, ...]:
    """The rules that the criteria set, each judged."""
    rules = (
        *_speed_rules(criteria, evidence, concurrency),
        *_quality_rules(criteria, evidence.kept, evidence.gained),
        *_cost_rules(criteria, evidence, concurrency),
    )
    return tuple(replace(rule, is_required=rule.name.partition(".")[0] not in criteria.optional) for rule in rules)


def _speed_rules(criteria: Criteria, evidence: Evidence, concurrency: int) -> Iterator[Rule]:
    speed = evidence.speed.row(evidence.ours, concurrency)
    over_plain = speed.over_plain if speed else None
    reason: Reason = "too few" if speed else "no such concurrency"
    yield from _limited("min_speedup", criteria.min_speedup, "x", over_plain, reason)
    yield from _percentiles("max_ms_per_token", criteria.max_ms_per_token, speed.ms_per_token if speed else None)
    yield from _percentiles("max_first_token_ms", criteria.max_first_token_ms, speed.first_token_ms if speed else None)
    row = evidence.mechanism.row(evidence.ours, concurrency)
    reason = "nothing proposed" if speed else "no such concurrency"
    yield from _limited("min_acceptance", criteria.min_acceptance, "share", row.acceptance if row else None, reason)


def _quality_rules(criteria: Criteria, kept: QualityKept, gained: QualityGained) -> Iterator[Rule]:
    if criteria.exactness:
        status: Status = "not measured" if kept.is_exact is None else "met" if kept.is_exact else "not met"
        yield _rule("exactness", None, "", status, None, "not asked")
    if criteria.score_margin is not None:
        difference = kept.score.difference if kept.score else None
        reason = "too few" if kept.score else kept.score_reason
        yield _rule("score_margin", criteria.score_margin, "score", _equivalence(kept.score), difference, reason)
    reason = gained.score_reason or "too few"
    yield from _limited("min_score_gain", criteria.min_score_gain, "score", gained.score_gain, reason)
    reason = gained.perplexity_reason or "too few"
    yield from _limited("min_perplexity_gain", criteria.min_perplexity_gain, "x", gained.perplexity_gain, reason)


def _cost_rules(criteria: Criteria, evidence: Evidence, concurrency: int) -> Iterator[Rule]:
    cost, memory = evidence.cost.row(evidence.ours, concurrency), evidence.cost.memory_total
    money = cost.total if cost else None
    reason: Reason = cost.reason if cost else "no such concurrency"
    yield from _limited("max_cost_per_million", criteria.max_cost_per_million, "money", money, reason)
    gib = None if memory is None else memory / GIB
    yield from _limited("max_memory_gib", criteria.max_memory_gib, "GiB", gib, "runner does not tell")


def _percentiles(name: str, limits: Limits, found: Percentiles | None) -> Iterator[Rule]:
    for percentile in ("p50", "p95", "p99"):
        value = getattr(found, percentile) if found else None
        yield from _limited(f"{name}.{percentile}", getattr(limits, percentile), "ms", value, "no such concurrency")


def _limited(
    name: str, limit: float | None, unit: Unit, found: float | Interval | None, reason: Reason
) -> Iterator[Rule]:
    """A minimum or maximum, where the criteria set one. Of an interval the lower end must reach the limit."""
    if limit is None:
        return
    status: Status
    if isinstance(found, Interval):
        status = _minimum(found, limit)
    elif found is None:
        status = "not measured"
    else:
        status = "met" if (found <= limit if name.startswith("max_") else found >= limit) else "not met"
    yield _rule(name, limit, unit, status, found, reason)


def _minimum(found: Interval, limit: float) -> Status:
    if found.low is None or found.high is None:
        return "not measured"
    return "met" if found.low >= limit else "not met" if found.high < limit else "not shown"


def _equivalence(score: ScoreComparison | None) -> Status:
    """Not met only where the whole interval of the difference lies outside the margin."""
    if score is None or score.is_equivalent is None or score.margin is None:
        return "not measured"
    if score.is_equivalent:
        return "met"
    is_outside = score.difference.side(score.margin) == "above" or score.difference.side(-score.margin) == "below"
    return "not met" if is_outside else "not shown"


def _rule(
    name: str, limit: float | None, unit: Unit, status: Status, found: float | Interval | None, reason: Reason
) -> Rule:
    """reason: why it was not measured, where it was not."""
    interval = found if isinstance(found, Interval) else None
    return Rule(
        name=name,
        is_required=True,
        limit=limit,
        value=found.mean if isinstance(found, Interval) else found,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        unit=unit,
        status=status,
        reason=reason if status == "not measured" else "",
    )

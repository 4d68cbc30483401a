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
    Speed,
    Verdict,
)

GIB = 2**30
Unit = Literal["x", "ms", "share", "score", "money", "GiB", ""]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the rules are judged by. ours: the method on trial."""

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


def judge(criteria: Criteria, evidence: Evidence) -> Verdict:
    """GO only if every required rule is met at the planned concurrency; a rule that was not measured is not met."""
    planned = criteria.planned_concurrency
    rules = _rules(criteria, evidence, planned)
    required = [rule for rule in rules if rule.is_required]
    up_to = _up_to(criteria, evidence)
    decision: Decision = "go" if _are_met(rules) else "go up to" if up_to else "no-go"
    return Verdict(
        decision=decision,
        concurrency=planned,
        up_to=up_to,
        rules=rules,
        blocking=tuple(rule.name for rule in required if rule.status == "not met"),
        unmeasured=tuple(rule.name for rule in required if rule.status == "not measured"),
    )


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
    """The method on trial, unless another was faster by its whole interval and is a GO by the same criteria."""
    ours, best = results.settings.ours, results.speed.best
    if best != ours:
        verdict = judge(results.settings.criteria, Evidence.of(results, best))
        if verdict.decision == "go":
            return Served(method=best, verdict=verdict)
    return Served(method=ours, verdict=results.verdict)


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
        yield _rule("exactness", None, "", kept.is_exact, None, "not asked")
    if criteria.score_margin is not None:
        score, margin = kept.score, criteria.score_margin
        if score is None:
            yield _rule("score_margin", margin, "score", None, None, kept.score_reason)
        else:
            yield _rule("score_margin", margin, "score", score.is_equivalent, score.difference, "too few")
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
    value = found.low if isinstance(found, Interval) else found
    is_met = None if value is None else value <= limit if name.startswith("max_") else value >= limit
    yield _rule(name, limit, unit, is_met, found, reason)


def _rule(
    name: str, limit: float | None, unit: Unit, is_met: bool | None, found: float | Interval | None, reason: Reason
) -> Rule:
    """is_met: None where it was not measured, for that reason."""
    interval = found if isinstance(found, Interval) else None
    return Rule(
        name=name,
        is_required=True,
        limit=limit,
        value=found.mean if isinstance(found, Interval) else found,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        unit=unit,
        status="not measured" if is_met is None else "met" if is_met else "not met",
        reason=reason if is_met is None else "",
    )

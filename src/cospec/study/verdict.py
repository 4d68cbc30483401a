"""The criteria held against what was measured: a line a rule, and go or no-go."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
    SpeedRow,
    Status,
    Verdict,
)

GIB = 2**30
Unit = Literal["x", "ms", "share", "score", "money", "GiB", ""]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the rules are held against. ours: the method on trial. concurrencies: those measured."""

    ours: str
    speed: Speed
    mechanism: Mechanism
    kept: QualityKept
    gained: QualityGained
    cost: Cost

    @classmethod
    def of(cls, results: Results, method: str) -> "Evidence":
        """What a finished study says of that method."""
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
        return sorted({row.concurrency for row in self.speed.rows if row.method == self.ours})


def judge(criteria: Criteria, evidence: Evidence) -> Verdict:
    """GO only if every required rule is met at the planned concurrency; a rule that was not measured is not met."""
    planned = criteria.planned_concurrency
    rules = tuple(_rules(criteria, evidence, planned))
    required = [rule for rule in rules if rule.is_required]
    up_to = _up_to(criteria, evidence)
    decision: Decision = "go" if _are_met(required) else "go up to" if up_to else "no-go"
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
    """What goes into service. method: its name. verdict: what was judged of it."""

    method: str
    verdict: Verdict

    @property
    def concurrency(self) -> int:
        """Texts at once that its figures are taken at: those planned, or the most at which it met the criteria."""
        return self.verdict.up_to if self.verdict.decision == "go up to" else self.verdict.concurrency


def served(results: Results) -> Served:
    """What was on trial, unless another was faster by its whole interval and is a GO by the same criteria."""
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
        return _are_met([rule for rule in _rules(criteria, evidence, concurrency) if rule.is_required])

    levels = [n for n in measured if n >= planned] if is_met(planned) else [n for n in measured if n < planned]
    highest = 0
    for level in levels:
        if not is_met(level):
            break
        highest = level
    return highest


def _are_met(rules: list[Rule]) -> bool:
    return all(rule.status == "met" for rule in rules)


def _rules(criteria: Criteria, evidence: Evidence, concurrency: int) -> Iterator[Rule]:
    speed = evidence.speed.row(evidence.ours, concurrency)
    over_plain = speed.over_plain if speed else None
    rule = _Writer(criteria)
    if criteria.min_speedup is not None:
        yield rule.interval("min_speedup", criteria.min_speedup, "x", over_plain, _reason(speed))
    yield from _percentiles(rule, "max_ms_per_token", criteria.max_ms_per_token, speed, lambda row: row.ms_per_token)
    yield from _percentiles(
        rule, "max_first_token_ms", criteria.max_first_token_ms, speed, lambda row: row.first_token_ms
    )
    if criteria.min_acceptance is not None:
        share = _acceptance(evidence, concurrency)
        reason: Reason = "nothing proposed" if speed else "no such concurrency"
        yield rule.at_least("min_acceptance", criteria.min_acceptance, "share", share, reason)
    if criteria.exactness:
        yield rule.line("exactness", None, "", evidence.kept.is_exact, reason="not asked")
    if criteria.score_margin is not None:
        yield _equivalence(rule, criteria.score_margin, evidence.kept)
    gained = evidence.gained
    if criteria.min_score_gain is not None:
        yield rule.interval(
            "min_score_gain", criteria.min_score_gain, "score", gained.score_gain, gained.score_reason or "too few"
        )
    if criteria.min_perplexity_gain is not None:
        reason = gained.perplexity_reason or "too few"
        yield rule.interval("min_perplexity_gain", criteria.min_perplexity_gain, "x", gained.perplexity_gain, reason)
    if criteria.max_cost_per_million is not None:
        cost = evidence.cost.row(evidence.ours, concurrency)
        money = cost.total if cost else None
        reason = cost.reason if cost else "no such concurrency"
        yield rule.at_most("max_cost_per_million", criteria.max_cost_per_million, "money", money, reason)
    if criteria.max_memory_gib is not None:
        total = evidence.cost.memory_total
        gib = None if total is None else total / GIB
        yield rule.at_most("max_memory_gib", criteria.max_memory_gib, "GiB", gib, "runner does not tell")


def _percentiles(
    rule: "_Writer", name: str, limits: Limits, row: SpeedRow | None, of: Callable[[SpeedRow], Percentiles]
) -> Iterator[Rule]:
    for percentile in ("p50", "p95", "p99"):
        limit = getattr(limits, percentile)
        if limit is not None:
            value = getattr(of(row), percentile) if row else None
            yield rule.at_most(f"{name}.{percentile}", limit, "ms", value, "no such concurrency")


def _reason(row: SpeedRow | None) -> Reason:
    return "too few" if row else "no such concurrency"


def _acceptance(evidence: Evidence, concurrency: int) -> float | None:
    """Of all of our proposers together."""
    row = evidence.mechanism.row(evidence.ours, concurrency)
    proposed = sum(each.proposed for each in row.proposers) if row else 0
    return sum(each.accepted for each in row.proposers) / proposed if row and proposed else None


def _equivalence(rule: "_Writer", margin: float, kept: QualityKept) -> Rule:
    score = kept.score
    if score is None:
        return rule.line("score_margin", margin, "score", None, reason=kept.score_reason)
    ends = score.difference.low, score.difference.high
    return rule.line("score_margin", margin, "score", score.is_equivalent, score.difference.mean, *ends, "too few")


@dataclass(frozen=True)
class _Writer:
    criteria: Criteria

    def at_least(self, name: str, limit: float, unit: Unit, value: float | None, reason: Reason) -> Rule:
        return self.line(name, limit, unit, None if value is None else value >= limit, value, reason=reason)

    def at_most(self, name: str, limit: float, unit: Unit, value: float | None, reason: Reason) -> Rule:
        return self.line(name, limit, unit, None if value is None else value <= limit, value, reason=reason)

    def interval(self, name: str, limit: float, unit: Unit, found: Interval | None, reason: Reason) -> Rule:
        """The lower end must reach the limit."""
        if found is None or found.low is None:
            return self.line(name, limit, unit, None, found.mean if found else None, reason=reason)
        return self.line(name, limit, unit, found.low >= limit, found.mean, found.low, found.high)

    def line(
        self,
        name: str,
        limit: float | None,
        unit: Unit,
        is_met: bool | None,
        value: float | None = None,
        low: float | None = None,
        high: float | None = None,
        reason: Reason = "",
    ) -> Rule:
        """is_met: None where it was not measured, and then why."""
        status: Status = "not measured" if is_met is None else "met" if is_met else "not met"
        return Rule(
            name=name,
            is_required=name.partition(".")[0] not in self.criteria.optional,
            limit=limit,
            value=value,
            low=low,
            high=high,
            unit=unit,
            status=status,
            reason=reason if is_met is None else "",
        )

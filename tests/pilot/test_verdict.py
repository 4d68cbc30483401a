"""From figures to go or no-go."""

from dataclasses import replace
from pathlib import Path

import pytest

from cospec.pilot.compare import compare
from cospec.pilot.criteria import Criteria, Limits
from cospec.pilot.results import OURS, Interval, Results
from cospec.pilot.verdict import Evidence, judge

EXAMPLE = Results.load(Path(__file__).parent / "data" / "example.json")
NOTHING = Criteria(min_speedup=None, exactness=False, score_margin=None, min_perplexity_gain=None)


def evidence(at_1, at_8, **changes):
    """Of the example, with other speeds over plain."""
    ratios = {1: at_1, 8: at_8}
    rows = tuple(
        replace(
            row, over_plain=Interval(mean=ratios[row.concurrency] + 0.1, low=ratios[row.concurrency], high=9, num=8)
        )
        for row in EXAMPLE.speed.rows
        if row.method == OURS and row.category == "all"
    )
    parts = {name: getattr(EXAMPLE, name) for name in ("mechanism", "kept", "gained", "cost")}
    return Evidence(ours=OURS, speed=replace(EXAMPLE.speed, rows=rows), **{**parts, **changes})


def wants(planned, **rules):
    return replace(NOTHING, planned_concurrency=planned, **rules)


@pytest.mark.parametrize(
    ("planned", "at_1", "at_8", "decision", "up_to"),
    [
        (1, 1.5, 1.4, "go", 8),
        (1, 1.5, 0.9, "go", 1),
        (8, 1.5, 0.9, "go up to", 1),
        (8, 0.9, 1.5, "go", 8),
        (8, 0.9, 0.9, "no-go", 0),
        (1, 0.9, 1.5, "no-go", 0),
    ],
)
def test_the_verdict_says_up_to_how_many_at_once(planned, at_1, at_8, decision, up_to):
    found = judge(wants(planned, min_speedup=1.0), evidence(at_1, at_8))
    assert (found.decision, found.up_to) == (decision, up_to)
    assert found.blocking == (() if decision == "go" else ("min_speedup",))


def test_the_lower_end_of_the_interval_is_what_counts():
    found = judge(wants(1, min_speedup=1.45), evidence(1.4, 1.4))
    assert found.rules[0].value == pytest.approx(1.5)
    assert found.rules[0].status == "not met"


def test_what_was_not_measured_forbids_a_go():
    kept = replace(EXAMPLE.kept, score=None, score_reason="no references")
    criteria = wants(1, min_speedup=1.0, score_margin=0.1, optional=())
    found = judge(criteria, evidence(1.5, 1.5, kept=kept))
    assert found.decision == "no-go"
    assert found.unmeasured == ("score_margin",)
    assert found.rules[1].reason == "no references"
    allowed = judge(replace(criteria, optional=("score_margin",)), evidence(1.5, 1.5, kept=kept))
    assert allowed.decision == "go"
    assert [rule.status for rule in allowed.rules] == ["met", "not measured"]


def test_every_rule_becomes_a_line():
    criteria = Criteria(
        max_ms_per_token=Limits(p50=1e-6, p99=1e6),
        max_first_token_ms=Limits(p95=1e6),
        min_acceptance=0.0,
        min_score_gain=-1.0,
        max_cost_per_million=1e6,
        max_memory_gib=1e3,
        optional=(),
    )
    found = judge(criteria, evidence(1.5, 1.5))
    assert [rule.name for rule in found.rules] == [
        "min_speedup", "max_ms_per_token.p50", "max_ms_per_token.p99", "max_first_token_ms.p95", "min_acceptance",
        "exactness", "score_margin", "min_score_gain", "min_perplexity_gain", "max_cost_per_million", "max_memory_gib",
    ]  # fmt: skip
    assert "max_ms_per_token.p50" in found.blocking
    assert all(rule.is_required for rule in found.rules)
    assert judge(NOTHING, evidence(1.5, 1.5)).decision == "go"


def test_a_concurrency_that_was_not_measured_is_said_to_be_so():
    found = judge(wants(4, min_speedup=1.0), evidence(1.5, 1.5))
    assert found.rules[0].reason == "no such concurrency"
    assert found.decision == "go up to"
    assert found.up_to == 1


def test_two_studies_are_compared_figure_by_figure():
    slower = tuple(replace(run, seconds=2 * run.seconds) if run.method == OURS else run for run in EXAMPLE.measurements)
    other = replace(
        EXAMPLE,
        measurements=slower,
        cost=replace(EXAMPLE.cost, memory_total=1),
        settings=replace(EXAMPLE.settings, temperature=0.5),
    )
    found = compare(EXAMPLE, other)
    assert found.second_over_first["1"].mean == pytest.approx(0.5)
    assert found.differing == ("temperature",)
    better = {figure.name: figure.is_better for figure in found.figures}
    assert better["memory, bytes"] is True
    assert better["tokens/s at 1"] is None
    assert compare(EXAMPLE, EXAMPLE).differing == ()

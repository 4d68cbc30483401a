"""From figures to go or no-go."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cospec.cli import app
from cospec.cli.pilot_run import EXIT
from cospec.cli.pilot_tables import tables
from cospec.study.compare import compare
from cospec.study.criteria import Criteria, Limits
from cospec.study.prices import Prices
from cospec.study.report import LANGUAGES
from cospec.study.report.headline import GAIN_TONES, RULE_TONES, TONES
from cospec.study.report.texts import load_texts
from cospec.study.results import OURS, Decision, Interval, Results, Status
from cospec.study.verdict import Evidence, Gain, gain, judge

from .studies import NOTHING

EXAMPLE = Results.load(Path(__file__).parent / "data" / "example.json")


def interval(low):
    """Narrow, so that it lies on one side of every limit of these tests but 1.45."""
    return Interval(mean=low + 0.04, low=low, high=low + 0.08, num=8)


def evidence(at_1, at_8, **changes):
    """Of the example, with other speeds over plain."""
    ratios = {1: at_1, 8: at_8}
    rows = tuple(
        replace(row, over_plain=interval(ratios[row.concurrency]))
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
    found = judge(wants(1, min_speedup=1.42), evidence(1.4, 1.4))
    assert found.rules[0].value == pytest.approx(1.44)
    assert found.rules[0].status == "not shown"
    assert judge(wants(1, min_speedup=1.49), evidence(1.4, 1.4)).rules[0].status == "not met"
    assert judge(wants(1, min_speedup=1.4), evidence(1.4, 1.4)).rules[0].status == "met"


@pytest.mark.parametrize(
    ("limit", "exact", "decision"),
    [(1.42, True, "not decided"), (1.49, True, "no-go"), (1.42, False, "no-go"), (1.42, None, "not decided")],
)
def test_an_interval_on_both_sides_of_its_limit_decides_nothing(limit, exact, decision):
    kept = replace(EXAMPLE.kept, is_exact=exact)
    found = judge(wants(1, min_speedup=limit, exactness=True), evidence(1.4, 1.4, kept=kept))
    assert found.decision == decision
    assert found.unshown == (("min_speedup",) if limit == 1.42 else ())
    assert found.unmeasured == (("exactness",) if exact is None else ())


@pytest.mark.parametrize(
    ("low", "high", "status"), [(-0.05, 0.02, "met"), (-0.2, 0.02, "not shown"), (-0.3, -0.15, "not met")]
)
def test_a_score_is_worse_only_where_its_whole_interval_is(low, high, status):
    difference = Interval(mean=(low + high) / 2, low=low, high=high, num=9)
    score = replace(EXAMPLE.kept.score, difference=difference, margin=0.1, is_equivalent=status == "met")
    found = judge(wants(1, score_margin=0.1), evidence(1.5, 1.5, kept=replace(EXAMPLE.kept, score=score)))
    assert found.rules[0].status == status


def test_a_study_that_is_not_finished_decides_nothing():
    for speed in (0.5, 1.5):
        found = judge(wants(1, min_speedup=1.0), evidence(speed, speed), is_finished=False)
        assert found.decision == "not decided"


@pytest.mark.parametrize(
    ("score", "perplexity", "expected"),
    [
        (None, None, "not measured"),
        (None, (1.01, 1.1), "gained"),
        ((-0.1, 0.1), (1.01, 1.1), "gained"),
        ((-0.1, 0.1), (0.9, 1.1), "not shown"),
        ((0.01, 0.1), (0.8, 0.9), "not shown"),
        ((-0.1, 0.1), (0.8, 0.9), "worse"),
        ((-0.2, -0.1), None, "worse"),
        ((None, None), None, "not shown"),
    ],
)
def test_a_gain_over_the_best_member_is_shown_by_score_or_perplexity(score, perplexity, expected):
    def made(ends):
        return ends and Interval(mean=1.0, low=ends[0], high=ends[1], num=5)

    assert gain(replace(EXAMPLE.gained, score_gain=made(score), perplexity_gain=made(perplexity))) == expected


def test_what_was_not_measured_forbids_a_go():
    kept = replace(EXAMPLE.kept, score=None, score_reason="no references")
    criteria = wants(1, min_speedup=1.0, score_margin=0.1, optional=())
    found = judge(criteria, evidence(1.5, 1.5, kept=kept))
    assert found.decision == "not decided"
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


def test_prompts_of_one_number_but_another_text_are_no_pair():
    prompts = tuple(replace(prompt, digest=f"other {prompt.digest}") for prompt in EXAMPLE.settings.prompts)
    other = replace(EXAMPLE, settings=replace(EXAMPLE.settings, prompts=prompts))
    assert compare(EXAMPLE, EXAMPLE).second_over_first.keys() == {"1", "8"}
    assert compare(EXAMPLE, other).second_over_first == {}


def test_settings_that_change_figures_are_named_where_they_differ():
    changes = {"members": ("math",), "ours": "alternate", "repeats": 9, "score": "exact", "prices": Prices()}
    other = replace(EXAMPLE, settings=replace(EXAMPLE.settings, **changes))
    assert {*compare(EXAMPLE, other).differing} == {*changes}


def test_every_outcome_has_its_words_and_colours_wherever_it_is_shown():
    for decision in get_args(Decision):
        assert EXIT[decision] in (0, 3, 4)
        assert TONES[decision]
    for status in get_args(Status):
        assert RULE_TONES[status]
        rules = tuple(replace(rule, status=status) for rule in EXAMPLE.verdict.rules)
        console = Console(file=io.StringIO(), width=200)
        console.print(*tables(replace(EXAMPLE, verdict=replace(EXAMPLE.verdict, rules=rules))))
        assert console.file.getvalue().count(f" {status} ") == len(rules)
    assert {*GAIN_TONES} == {*get_args(Gain)}
    for language in LANGUAGES:
        table = load_texts(language).table
        assert {f"verdict.{decision}" for decision in get_args(Decision)} <= table.keys()
        assert {f"verdict.says {decision}" for decision in get_args(Decision)} <= table.keys()
        assert {f"status.{status}" for status in get_args(Status)} <= table.keys()


def test_two_studies_are_compared_on_the_command_line(tmp_path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    first.write_text(json.dumps(EXAMPLE.to_dict()), encoding="utf-8")
    slower = tuple(replace(run, seconds=2 * run.seconds) for run in EXAMPLE.measurements)
    other = replace(EXAMPLE, measurements=slower, settings=replace(EXAMPLE.settings, repeats=1))
    second.write_text(json.dumps(other.to_dict()), encoding="utf-8")
    shown = CliRunner().invoke(app, ["pilot", "compare", str(first), str(second), "--json"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert found["second_over_first"]["1"]["mean"] == pytest.approx(0.5)
    assert found["differing"] == ["repeats"]
    shown = CliRunner().invoke(app, ["pilot", "compare", str(first), str(second)])
    assert shown.exit_code == 0, shown.output
    said = " ".join(shown.output.split())
    assert "0.50" in said
    assert "settings that differ: repeats" in said
    shown = CliRunner().invoke(app, ["pilot", "compare", str(first), str(tmp_path / "none.json")])
    assert shown.exit_code == 2


@pytest.mark.parametrize("status", get_args(Status))
def test_a_rule_of_any_outcome_is_in_the_table(status):
    rules = (replace(EXAMPLE.verdict.rules[0], status=status), *EXAMPLE.verdict.rules[1:])
    verdict, *_ = tables(replace(EXAMPLE, verdict=replace(EXAMPLE.verdict, rules=rules)))
    assert verdict is not None

"""A pilot's results as tables: the verdict first, then speed. The report has the rest."""

from collections.abc import Iterator

from rich.text import Text

from ..study.compare import Comparison
from ..study.results import ALL, Interval, Results, Rule, Status
from ..study.verdict import Gain, gain, in_words
from .tables import FittedTable, TableColumn

_COLOURS: dict[Status, str] = {"met": "green", "not met": "red", "not shown": "yellow", "not measured": "yellow"}
_GAINS: dict[Gain, str] = {
    "gained": "better than the best single member",
    "not shown": "no gain shown over the best single member",
    "worse": "WORSE than the best single member",
    "not measured": "gain over the best single member not measured",
}
# Where the columns are that a narrow terminal leaves out.
_IN_REPORT = "see the report"


def tables(results: Results) -> Iterator[FittedTable]:
    """The verdict's rules, and speed by method and concurrency."""
    yield _verdict(results)
    yield _speed(results)


def _verdict(results: Results) -> FittedTable:
    verdict = results.verdict
    return FittedTable(
        title=f"{in_words(verdict)} (planned concurrency: {verdict.concurrency}); {_GAINS[gain(results.gained)]}",
        columns=[
            TableColumn(name="rule", priority=0),
            TableColumn(name="limit"),
            TableColumn(name="measured", wraps=True),
            TableColumn(name="status", priority=0),
            TableColumn(name="required", priority=2),
        ],
        rows=[
            [
                rule.name,
                "" if rule.limit is None else f"{rule.limit:g} {rule.unit}",
                _measured(rule),
                Text(rule.status, _COLOURS[rule.status]),
                "yes" if rule.is_required else "no",
            ]
            for rule in verdict.rules
        ],
        hint=_IN_REPORT,
    )


def _measured(rule: Rule) -> str:
    if rule.value is None:
        return rule.reason
    interval = "" if rule.low is None or rule.high is None else f" ({rule.low:.3g} to {rule.high:.3g})"
    reason = f" ({rule.reason} for an interval)" if rule.reason == "too few" else ""
    return f"{rule.value:.3g}{interval} {rule.unit}".rstrip() + reason


def _speed(results: Results) -> FittedTable:
    return FittedTable(
        title="speed: geometric mean of paired ratios over plain (95 % interval)",
        columns=[
            TableColumn(name="method", priority=0),
            TableColumn(name="concurrency", priority=0, is_number=True),
            TableColumn(name="tokens/s", priority=2, is_number=True),
            TableColumn(name="ms a token p50 / p95", priority=3, is_number=True),
            TableColumn(name="first token p50, ms", priority=4, is_number=True),
            TableColumn(name="over plain", is_number=True),
        ],
        rows=[
            [
                row.method,
                str(row.concurrency),
                f"{row.tokens_per_second:.1f}",
                f"{row.ms_per_token.p50:.2f} / {row.ms_per_token.p95:.2f}",
                f"{row.first_token_ms.p50:.1f}",
                _interval(row.over_plain),
            ]
            for row in results.speed.rows
            if row.category == ALL
        ],
        hint=_IN_REPORT,
    )


def _interval(estimate: Interval | None) -> str:
    if estimate is None:
        return ""
    ends = "" if estimate.low is None else f" ({estimate.low:.2f} to {estimate.high:.2f})"
    return f"{estimate.mean:.2f}{ends}"


def comparison_table(comparison: Comparison) -> FittedTable:
    """Both pilots, a row for each figure; settings that differ are named below."""
    paired = [f"{_interval(ratio)} times as fast at {n}" for n, ratio in comparison.second_over_first.items()]
    caption = "; ".join([*paired, f"settings that differ: {', '.join(comparison.differing) or 'none'}"])
    change = {True: Text("better", "green"), False: Text("worse", "red"), None: Text()}
    return FittedTable(
        title="two pilots",
        columns=[
            TableColumn(name="figure", priority=0),
            TableColumn(name="first", is_number=True),
            TableColumn(name="second", is_number=True),
            TableColumn(name="the second is", priority=2),
        ],
        rows=[
            [figure.name, _shown(figure.first), _shown(figure.second), change[figure.is_better]]
            for figure in comparison.figures
        ],
        caption=f"the second, paired by prompt: {caption}",
    )


def _shown(value: float | str | None) -> str:
    return "not measured" if value is None else value if isinstance(value, str) else f"{value:.4g}"

"""What a pilot found, on a terminal: the verdict first, then speed. The report has the rest."""

from collections.abc import Iterator

from rich.table import Table

from ..study.compare import Comparison
from ..study.results import ALL, Interval, Results, Rule

_COLOURS = {"met": "green", "not met": "red", "not measured": "yellow"}


def tables(results: Results) -> Iterator[Table]:
    """The verdict's rules, and speed by method and concurrency."""
    yield _verdict(results)
    yield _speed(results)


def _verdict(results: Results) -> Table:
    verdict = results.verdict
    up_to = f" {verdict.up_to} texts at once" if verdict.decision == "go up to" else ""
    title = f"{verdict.decision.upper()}{up_to} (asked for {verdict.concurrency} at once)"
    table = Table("rule", "limit", "measured", "", "required", title=title)
    for rule in verdict.rules:
        status = f"[{_COLOURS[rule.status]}]{rule.status}[/]"
        limit = "" if rule.limit is None else f"{rule.limit:g} {rule.unit}"
        table.add_row(rule.name, limit, _measured(rule), status, "yes" if rule.is_required else "no")
    return table


def _measured(rule: Rule) -> str:
    if rule.value is None:
        return rule.reason
    interval = "" if rule.low is None or rule.high is None else f" ({rule.low:.3g} to {rule.high:.3g})"
    return f"{rule.value:.3g}{interval} {rule.unit} {rule.reason}".strip()


def _speed(results: Results) -> Table:
    table = Table("method", "at once", title="speed: geometric mean of paired ratios over plain (95 % interval)")
    for column in ("tokens/s", "ms a token p50 / p95", "first token p50, ms", "over plain"):
        table.add_column(column, justify="right")
    for row in results.speed.rows:
        if row.category == ALL:
            table.add_row(
                row.method,
                str(row.concurrency),
                f"{row.tokens_per_second:.1f}",
                f"{row.ms_per_token.p50:.2f} / {row.ms_per_token.p95:.2f}",
                f"{row.first_token_ms.p50:.1f}",
                _interval(row.over_plain),
            )
    return table


def _interval(found: Interval | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:.2f}" if found.low is None else f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f})"


def comparison_table(comparison: Comparison) -> Table:
    """Both studies, a line a figure; what differs in their settings stands below."""
    paired = [f"{_interval(ratio)} times as fast at {n}" for n, ratio in comparison.second_over_first.items()]
    caption = "; ".join([*paired, f"settings that differ: {', '.join(comparison.differing) or 'none'}"])
    table = Table("figure", title="two pilots", caption=f"the second, paired by prompt: {caption}")
    for column in ("first", "second"):
        table.add_column(column, justify="right")
    table.add_column("the second is")
    for figure in comparison.figures:
        change = {True: "[green]better[/]", False: "[red]worse[/]", None: ""}[figure.is_better]
        table.add_row(figure.name, _shown(figure.first), _shown(figure.second), change)
    return table


def _shown(value: float | str | None) -> str:
    return "not measured" if value is None else value if isinstance(value, str) else f"{value:.4g}"

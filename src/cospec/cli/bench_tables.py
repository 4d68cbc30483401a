"""A benchmark's figures as tables: every method's speed and its causes, several prompts at once, varied settings, and
what was skipped."""

from collections.abc import Iterator, Mapping
from typing import Any

from .tables import FittedTable, TableColumn

_METHOD = TableColumn(name="method", priority=0)


def tables(figures: Mapping[str, Any]) -> Iterator[FittedTable]:
    """figures: those of `Benchmark`."""
    yield _speeds(figures["methods"])
    yield _causes(figures["methods"])
    if figures["concurrency"]:
        yield _concurrency(figures["concurrency"])
    for setting, by_value in figures["sweeps"].items():
        yield _sweep(setting, by_value)
    if figures["skipped"]:
        yield _skipped(figures["skipped"])


def _speeds(rows: Mapping[str, Any]) -> FittedTable:
    return FittedTable(
        title="speed over plain: geometric mean of per-prompt ratios (95 % bootstrap interval)",
        columns=[
            _METHOD,
            TableColumn(name="tokens/s", is_number=True),
            TableColumn(name="over plain", priority=0, is_number=True),
            TableColumn(name="theory", priority=2, is_number=True),
        ],
        rows=[
            [
                name,
                f"{row['tokens_per_second']:.1f}",
                _interval(row["over_plain"]),
                f"{row['theory_over_plain']:.2f}" if row["theory_over_plain"] else "",
            ]
            for name, row in rows.items()
        ],
    )


def _causes(rows: Mapping[str, Any]) -> FittedTable:
    return FittedTable(
        title="where the time goes: forward passes, drafts, the engine's own share, and memory",
        columns=[
            _METHOD,
            TableColumn(name="calls / 100 tokens", priority=0, wraps=True),
            TableColumn(name="accepted / proposed", priority=0, wraps=True),
            TableColumn(name="engine", priority=2, is_number=True),
            TableColumn(name="peak MiB", wraps=True),
        ],
        rows=[
            [
                name,
                _listed(row.get("calls_per_100_tokens", {}), ".0f"),
                _listed(row.get("acceptance", {}), ".2f"),
                f"{row['share_outside_models']:.1%}" if "share_outside_models" in row else "",
                _listed(row["peak_memory_mib"], "d"),
            ]
            for name, row in rows.items()
        ],
    )


def _skipped(reasons: Mapping[str, str]) -> FittedTable:
    return FittedTable(
        title="skipped",
        columns=[_METHOD, TableColumn(name="reason", priority=0, wraps=True)],
        rows=[[name, reason] for name, reason in reasons.items()],
    )


def _interval(over: Mapping[str, float] | None) -> str:
    return f"{_ratio(over['mean'])} ({_ratio(over['low'])}-{_ratio(over['high'])})" if over else ""


def _ratio(value: float) -> str:
    """Two decimals; an interval of few prompts may end so high that its order of magnitude is enough."""
    return f"{value:.2f}" if value < 1000 else f"{value:.0e}"


def _listed(figures: Mapping[str, float], style: str) -> str:
    return ", ".join(f"{name} {figure:{style}}" for name, figure in figures.items())


def _concurrency(by_method: Mapping[str, Mapping[int, float]]) -> FittedTable:
    levels = sorted({level for speeds in by_method.values() for level in speeds})
    return FittedTable(
        title="tokens a second of all sequences together, by their number",
        columns=[_METHOD, *(TableColumn(name=str(level), is_number=True) for level in levels)],
        rows=[
            [name, *(f"{speeds[level]:.1f}" if level in speeds else "" for level in levels)]
            for name, speeds in by_method.items()
        ],
    )


def _sweep(setting: str, by_value: Mapping[float, Mapping[str, Any]]) -> FittedTable:
    names = dict.fromkeys(name for figures in by_value.values() for name in figures)
    return FittedTable(
        title=f"speed over plain, by {setting}",
        columns=[_METHOD, *(TableColumn(name=f"{value:g}", is_number=True) for value in by_value)],
        rows=[
            [name, *(_ratio(over["mean"]) if (over := own.get(name)) else "" for own in by_value.values())]
            for name in names
        ],
    )

"""What the measurements say: speeds over `plain`, calls, acceptance, and what theory makes of the same plans."""

from collections.abc import Mapping
from collections.abc import Sequence as Values
from dataclasses import asdict
from typing import Any

from rich.table import Table

from .benchmark import Study
from .timing import Ratio, ratio


def report(study: Study, skipped: Mapping[str, str]) -> dict[str, Any]:
    """All figures, ready for JSON."""
    plain = study.seconds.get("plain", {})
    return {
        "settings": study.settings,
        "skipped": dict(skipped),
        "methods": {
            name: {
                "tokens_per_second": len(own) / sum(own.values()),
                "over_plain": _over(plain, own),
                "theory_over_plain": study.predictions.get(name),
                **_counts(study.counts.get(name, {})),
                "peak_memory_mib": _in_mib(study.peaks.get(name, {})),
            }
            for name, own in study.seconds.items()
            if own
        },
        "concurrency": study.concurrency,
        "sweeps": {
            setting: {value: _all_over(seconds) for value, seconds in sorted(values.items())}
            for setting, values in study.sweeps.items()
        },
    }


def _in_mib(held: Mapping[str, int]) -> dict[str, int]:
    """By where it is held, all models included: those of other methods are loaded as well."""
    return {where: count // 2**20 for where, count in held.items()}


def _all_over(seconds: Mapping[str, Mapping[int, float]]) -> dict[str, dict[str, float] | None]:
    return {name: _over(seconds["plain"], own) for name, own in seconds.items() if name != "plain"}


def _over(plain: Mapping[int, float], own: Mapping[int, float]) -> dict[str, float] | None:
    both = sorted(plain.keys() & own.keys())
    return asdict(ratio([plain[i] for i in both], [own[i] for i in both])) if both else None


def _counts(total: Mapping[str, Any]) -> dict[str, Any]:
    """accepted / proposed, in all and by place in a block; tokens a block of drafts; calls per 100 tokens; and the
    share of time outside the models' calls."""
    if not total:
        return {}
    proposed = total.get("proposed", {})
    num_blocks = sum(counts.get("0", 0) for counts in total.get("proposed_at", {}).values())
    return {
        "acceptance": {name: total["accepted"][name] / count for name, count in proposed.items() if count},
        "acceptance_by_place": {
            name: [total["accepted_at"][name][place] / count if count else None for place, count in counts.items()]
            for name, counts in total.get("proposed_at", {}).items()
        },
        "tokens_per_block": total["tokens"] / num_blocks if num_blocks else None,
        "calls_per_100_tokens": {name: 100 * count / total["tokens"] for name, count in total["calls"].items()},
        "share_outside_models": 1 - total["seconds in models"] / total["seconds"],
        "plans": total.get("plans", {}),
    }


def table(figures: Mapping[str, Any]) -> Table:
    """The figures on a terminal."""
    shown = _of_methods(
        "speed over plain: geometric mean of per-prompt ratios (95 % bootstrap interval)",
        ("tokens/s", "over plain", "theory", "calls / 100 tokens", "accepted / proposed", "engine", "peak MiB"),
    )
    for name, row in figures["methods"].items():
        shown.add_row(
            name,
            f"{row['tokens_per_second']:.1f}",
            str(Ratio(**row["over_plain"])) if row["over_plain"] else "",
            f"{row['theory_over_plain']:.2f}" if row["theory_over_plain"] else "",
            ", ".join(f"{member} {count:.0f}" for member, count in row.get("calls_per_100_tokens", {}).items()),
            ", ".join(f"{proposer} {share:.2f}" for proposer, share in row.get("acceptance", {}).items()),
            f"{row['share_outside_models']:.1%}" if "share_outside_models" in row else "",
            ", ".join(f"{where} {count}" for where, count in row["peak_memory_mib"].items()),
        )
    return shown


def sweep_tables(figures: Mapping[str, Any]) -> list[Table]:
    """Speed over plain by the value of each setting that was varied."""
    tables = []
    for setting, values in figures["sweeps"].items():
        shown = _of_methods(f"speed over plain, by {setting}", [f"{value:g}" for value in values])
        for name in dict.fromkeys(name for row in values.values() for name in row):
            rows = [row.get(name) for row in values.values()]
            shown.add_row(name, *(f"{row['mean']:.2f}" if row else "" for row in rows))
        tables.append(shown)
    return tables


def concurrency_table(figures: Mapping[str, Any]) -> Table:
    """Tokens a second by texts at once."""
    swept: dict[str, dict[int, float]] = figures["concurrency"]
    levels = sorted({level for speeds in swept.values() for level in speeds})
    shown = _of_methods("tokens a second of all texts together, by texts at once", [*map(str, levels)])
    for name, speeds in swept.items():
        shown.add_row(name, *(f"{speeds[level]:.1f}" if level in speeds else "" for level in levels))
    return shown


def _of_methods(title: str, columns: Values[str]) -> Table:
    """An empty table with a row a method."""
    shown = Table("method", title=title)
    for column in columns:
        shown.add_column(column, justify="right")
    return shown

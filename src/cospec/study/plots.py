"""The plots of a benchmark, as files."""

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Values
from functools import partial
from pathlib import Path
from typing import Any

from .canvas import Figure, save
from .drawing import Estimate, Point, Series, intervals, lines

SAVED_WIDTH = 760


def plot(figures: Mapping[str, Any], folder: Path) -> list[Path]:
    """speed.svg, acceptance.svg, and one for each sweep; PNGs beside them. figures: a benchmark's report."""
    methods = figures["methods"]
    written: list[Path] = []
    if any(row["over_plain"] for row in methods.values()):
        written += save(lambda: _speeds(methods), folder / "speed")
    by_place = {name: row["acceptance_by_place"] for name, row in methods.items() if "acceptance" in row}
    if any(by_place.values()):
        written += save(lambda: _acceptances(by_place), folder / "acceptance")
    for setting, values in figures["sweeps"].items():
        written += save(partial(_sweep, setting, values), folder / f"speed-by-{setting}")
    if figures["concurrency"]:
        written += save(lambda: _concurrency(figures["concurrency"]), folder / "concurrency")
    return written


def _speeds(methods: Mapping[str, Any]) -> Figure:
    estimates = []
    for name, row in methods.items():
        if over := row["over_plain"]:
            mean, low, high = over["mean"], over["low"], over["high"]
            ends = "" if low is None else f" ({low:.2f}× to {high:.2f}×)"
            estimates.append(Estimate(label=name, mean=mean, low=low, high=high, written=f"{mean:.2f}×{ends}"))
    return intervals(SAVED_WIDTH, estimates, 1, lambda value: f"{value:.4g}×")


def _acceptances(by_place: Mapping[str, Mapping[str, list[float | None]]]) -> Figure:
    shares = {
        f"{method}: {proposer}": [(i, share) for i, share in enumerate(found, start=1) if share is not None]
        for method, proposers in by_place.items()
        for proposer, found in proposers.items()
    }
    label = "accepted / proposed, by position in the block of drafts"
    return _with_legend(shares, lambda share: f"{share:.2g}", label, reach=[0, 1])


def _sweep(setting: str, values: Mapping[float, Mapping[str, Any]]) -> Figure:
    names = dict.fromkeys(name for row in values.values() for name in row)
    speeds = {
        name: [(float(value), row[name]["mean"]) for value, row in values.items() if row.get(name)] for name in names
    }
    return _with_legend(speeds, lambda speed: f"{speed:.4g}×", f"speed over plain, by {setting}", levels=[1])


def _concurrency(swept: Mapping[str, Mapping[int, float]]) -> Figure:
    speeds = {name: [(level, found[level]) for level in sorted(found)] for name, found in swept.items()}
    label = "tokens/s of all sequences together, by concurrent sequences"
    return _with_legend(speeds, lambda speed: f"{speed:g}", label, reach=[0], is_logarithmic=True)


def _with_legend(
    series: Mapping[str, Values[tuple[float, float]]], written: Callable[[float], str], label: str, **options: Any
) -> Figure:
    """series: label -> (x, y)."""
    drawn = [
        Series(label=name, colour=f"c{i % 7}", points=tuple(Point(x=x, mean=y) for x, y in points))
        for i, (name, points) in enumerate(series.items())
        if points
    ]
    figure = lines(SAVED_WIDTH, drawn, written, x_label=label, **options)
    figure.set_figheight(2 * figure.get_figheight())
    figure.axes[0].legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=2)
    return figure

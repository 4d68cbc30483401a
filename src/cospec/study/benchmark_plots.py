"""A picture of each table. matplotlib is an extra, and asked for before anything is measured."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import MissingExtra

try:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
except ImportError:
    raise MissingExtra("plots need matplotlib: pip install 'cospec[bench]', or add --no-plots") from None


def plot(figures: Mapping[str, Any], folder: Path) -> list[Path]:
    """speed.svg, acceptance.svg, and one for each sweep; PNGs beside them."""
    written = _save(_speeds(figures["methods"]), folder / "speed")
    by_place = {name: row["acceptance_by_place"] for name, row in figures["methods"].items() if "acceptance" in row}
    if any(by_place.values()):
        written += _save(_acceptances(by_place), folder / "acceptance")
    for setting, values in figures["sweeps"].items():
        written += _save(_sweep(setting, values), folder / f"speed-by-{setting}")
    if figures["concurrency"]:
        written += _save(_concurrency(figures["concurrency"]), folder / "concurrency")
    return written


def _speeds(methods: Mapping[str, Any]) -> Any:
    rows = {name: row["over_plain"] for name, row in methods.items() if row["over_plain"]}
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.4 * len(rows)))
    means = [row["mean"] for row in rows.values()]
    below = [row["mean"] - row["low"] for row in rows.values()]
    above = [row["high"] - row["mean"] for row in rows.values()]
    axes.barh(list(rows), means, xerr=[below, above], color="#4c78a8", ecolor="#333333")
    axes.axvline(1, color="#888888", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("speed over plain (95 % interval)")
    return figure


def _acceptances(by_place: Mapping[str, Mapping[str, list[float | None]]]) -> Any:
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for method, proposers in by_place.items():
        for proposer, shares in proposers.items():
            heights = [math.nan if share is None else share for share in shares]
            axes.plot(range(1, len(shares) + 1), heights, marker="o", label=f"{method}: {proposer}")
    axes.set_xlabel("place in the block of drafts")
    axes.set_ylabel("accepted / proposed")
    axes.set_ylim(0, 1)
    axes.legend()
    return figure


def _sweep(setting: str, values: Mapping[float, Mapping[str, Any]]) -> Any:
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name in dict.fromkeys(name for row in values.values() for name in row):
        points = [(value, row[name]["mean"]) for value, row in values.items() if row.get(name)]
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.axhline(1, color="#888888", linewidth=1)
    axes.set_xlabel(setting)
    axes.set_ylabel("speed over plain")
    axes.legend()
    return figure


def _concurrency(swept: Mapping[str, Mapping[int, float]]) -> Any:
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, speeds in swept.items():
        levels = sorted(speeds)
        axes.plot(levels, [speeds[level] for level in levels], marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("texts at once")
    axes.set_ylabel("tokens/s, all together")
    axes.legend()
    return figure


def _save(figure: Any, stem: Path) -> list[Path]:
    paths = [stem.with_suffix(".svg"), stem.with_suffix(".png")]
    for path in paths:
        figure.savefig(path, bbox_inches="tight")
    pyplot.close(figure)
    return paths

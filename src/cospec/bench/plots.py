"""A picture of each table. matplotlib is an extra, and asked for before anything is measured."""

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
    """speed.svg, and concurrency.svg where it was swept; PNGs beside them."""
    written = _save(_speeds(figures["methods"]), folder / "speed")
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

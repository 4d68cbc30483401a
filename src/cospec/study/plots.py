"""The plots of a benchmark and of a pilot's report: estimates with intervals, lines, amounts, and stacked amounts.

Sizes are in CSS pixels, one of which is one point of matplotlib's. Everything is placed by numbers, and nothing by the
width of a word: the page's fonts are not matplotlib's.
"""

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Values
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

from ..errors import MissingExtra

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
    from matplotlib.transforms import blended_transform_factory, offset_copy
except ImportError:
    raise MissingExtra(
        "plots need matplotlib: pip install 'cospec[pilot]' or 'cospec[bench]', or add --no-plots to `cospec bench`"
    ) from None

# A plot of a width.
Draw: TypeAlias = Callable[[float], Figure]

# The page's colours by name, as they are in light mode: Okabe and Ito's hues, made darker for their contrast.
COLOURS = {
    "ink": "#1f2228",
    "soft": "#5a5e68",
    "line": "#e5e1d8",
    "edge": "#8b8d94",
    "card": "#fffefb",
    "neutral": "#767a83",
    "c0": "#0072b2",
    "c1": "#c95600",
    "c2": "#00805f",
    "c3": "#b0568f",
    "c4": "#946a00",
    "c5": "#2f7dab",
    "c6": "#6c5bb0",
}
# A marker a series, so that they differ without colour too; the same as letters, for legends.
MARKERS, LETTERS = "osD^", "●■◆▲"
ROW, BAR_ROW, AXIS, SIDE = 46, 40, 26, 26
LABEL_SIZE, TICK_SIZE = 13, 12
LINES_HEIGHT = 230
# Left, right, top, bottom: room for the ticks and the name of x.
LINES_MARGINS = (48, 18, 12, 42)
SAVED_WIDTH = 760
# More ticks than this would touch each other.
MOST_TICKS = 9

_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["soft"],
    "axes.labelsize": TICK_SIZE,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": True,
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": LABEL_SIZE,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
    "xtick.labelsize": TICK_SIZE,
    "ytick.labelsize": TICK_SIZE,
    "legend.frameon": False,
    "lines.solid_capstyle": "butt",
}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One row of a plot. written: its figure in words. colour: a name of COLOURS. low, high: its 95 % interval."""

    label: str
    mean: float
    written: str
    colour: str = "c0"
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Point:
    """is_faint: estimated from few observations, and drawn hollow."""

    x: float
    mean: float
    low: float | None = None
    high: float | None = None
    is_faint: bool = False


@dataclass(frozen=True, kw_only=True)
class Series:
    label: str
    colour: str
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A bar made of parts, each with its colour."""

    label: str
    written: str
    parts: tuple[tuple[float, str], ...]


def intervals(width: float, rows: Values[Estimate], reference: float, written: Callable[[float], str]) -> Figure:
    """A row an estimate: its name and figure above, its interval and mark below, on one scale with `reference`."""
    ends = [value for row in rows for value in (row.mean, row.low, row.high) if _is_finite(value)]
    figure, axes = _rows(width, len(rows), ROW, AXIS, SIDE)
    ticks = _ticks([*ends, reference])
    axes.set_xlim(ticks[0], ticks[-1])
    axes.set_xticks(ticks, [written(tick) for tick in ticks])
    for i, row in enumerate(rows):
        # Behind the marks alone, so that no line runs through a name.
        axes.vlines(ticks, i + 0.46, i + 0.9, color=COLOURS["line"], linewidth=1)
        axes.plot(
            [reference] * 2, [i + 0.46, i + 0.9], color=COLOURS["edge"], linestyle="--", linewidth=1.5, gid="reference"
        )
        _name(axes, i, ROW, row.label, row.written)
        colour, y = COLOURS[row.colour], i + 0.68
        if _is_finite(row.low) and _is_finite(row.high):
            ends = [row.low, row.high]
            axes.plot(ends, [y, y], color=colour, linewidth=3.5, alpha=0.55, gid=f"interval-{row.colour}")
        if _is_finite(row.mean):
            axes.plot(row.mean, y, "o", color=colour, markersize=10, clip_on=False, gid=f"mark-{row.colour}")
    return figure


def amounts(width: float, rows: Values[Estimate], most: float = 0.0) -> Figure:
    """A bar a row, from zero, on a scale up to `most` or to the largest."""
    parts = [Stack(label=row.label, written=row.written, parts=((row.mean, row.colour),)) for row in rows]
    return stacked(width, parts, most)


def stacked(width: float, rows: Values[Stack], most: float = 0.0) -> Figure:
    """A bar a row, made of parts side by side, all on one scale."""
    figure, axes = _rows(width, len(rows), BAR_ROW, 0, 0)
    sums = [sum(part for part, _ in row.parts) for row in rows]
    most = most or max(filter(_is_finite, sums), default=0) or 1
    axes.set_xlim(0, most)
    axes.set_xticks([])
    for i, row in enumerate(rows):
        _name(axes, i, BAR_ROW, row.label, row.written)
        axes.barh(i + 0.65, most, 0.28, color=COLOURS["line"], alpha=0.6)
        start = 0.0
        for part, colour in row.parts:
            # An infinite amount fills the bar.
            part = min(part, most)
            axes.barh(i + 0.65, part, 0.28, left=start, color=COLOURS[colour], edgecolor=COLOURS["card"], linewidth=1)
            start += part
    return figure


def lines(
    width: float,
    series: Values[Series],
    written: Callable[[float], str],
    *,
    x_label: str,
    levels: Values[float] = (),
    reach: Values[float] = (),
    is_logarithmic: bool = False,
) -> Figure:
    """Points at numbers, joined. levels: drawn across, such as 1 for the speed of plain. reach: values that the scale
    must reach to. is_logarithmic: x doubles from tick to tick.
    """
    left, right, top, bottom = LINES_MARGINS
    figure = Figure(figsize=(width / 72, LINES_HEIGHT / 72), dpi=72)
    box = (left / width, bottom / LINES_HEIGHT, 1 - (left + right) / width, 1 - (top + bottom) / LINES_HEIGHT)
    axes = figure.add_axes(box)
    points = [point for one in series for point in one.points]
    ends = [end for p in points for end in (p.mean, p.low, p.high) if _is_finite(end)]
    ticks = _ticks([*ends, *levels, *reach])
    axes.set_ylim(ticks[0], ticks[-1])
    axes.set_yticks(ticks, [written(tick) for tick in ticks])
    axes.set_xlabel(x_label)
    _x_ticks(axes, sorted({point.x for point in points}) or [1], is_logarithmic)
    axes.grid(axis="y", color=COLOURS["line"])
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    for level in levels:
        axes.axhline(level, color=COLOURS["edge"], linestyle="--", linewidth=1.5, gid="reference")
    for number, one in enumerate(series):
        # Side by side, so that intervals at one tick do not cover each other.
        _draw(axes, one, number, 7 * (number - (len(series) - 1) / 2))
    return figure


def _draw(axes: Axes, one: Series, number: int, shift: float) -> None:
    place = offset_copy(axes.transData, axes.get_figure(root=True), x=shift, units="points")
    colour = COLOURS[one.colour]
    xs, means = [point.x for point in one.points], [point.mean for point in one.points]
    style: dict[str, Any] = {"color": colour, "transform": place, "clip_on": False}
    axes.plot(xs, means, linewidth=2, label=one.label, marker=MARKERS[number % len(MARKERS)], markersize=8, **style)
    for point in one.points:
        if _is_finite(point.low) and _is_finite(point.high):
            ends = [point.low, point.high]
            axes.plot([point.x] * 2, ends, linewidth=3.5, alpha=0.55, gid=f"interval-{one.colour}", **style)
        if point.is_faint:
            marker = MARKERS[number % len(MARKERS)]
            axes.plot(point.x, point.mean, marker, markersize=8, markerfacecolor=COLOURS["card"], gid="few", **style)


def _x_ticks(axes: Axes, xs: list[float], is_logarithmic: bool) -> None:
    """At every x where there are few, and never between whole numbers where all are whole."""
    if is_logarithmic:
        axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    if len(xs) <= MOST_TICKS or is_logarithmic:
        axes.set_xticks(xs)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(MOST_TICKS, integer=all(float(x).is_integer() for x in xs)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    first, last = xs[0], xs[-1]
    if is_logarithmic:
        room = (last / first) ** 0.06 if last > first else 2
        axes.set_xlim(first / room, last * room)
    else:
        room = 0.06 * (last - first) or 0.5
        axes.set_xlim(first - room, last + room)


def _rows(width: float, num: int, row: int, axis: int, side: int) -> tuple[Figure, Axes]:
    """A figure of rows of `row` pixels, the first on top, above an axis, with room at both sides."""
    height = num * row + axis
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    axes = figure.add_axes((side / width, axis / height, 1 - 2 * side / width, 1 - axis / height))
    axes.set_ylim(num, 0)
    axes.set_yticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure, axes


def _name(axes: Axes, i: int, height: int, label: str, written: str) -> None:
    """Above the mark of row i: its name on the left, its figure on the right, cut short where they would meet."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    place = blended_transform_factory(figure.transFigure, axes.transData)
    y = i + 16 / height
    room = figure.get_figwidth() * 72 / (0.56 * LABEL_SIZE) - _num_columns(written) - 2
    axes.text(0, y, _cut(label, room), transform=place)
    axes.text(1, y, written, transform=place, ha="right", fontweight="bold")


def _num_columns(text: str) -> float:
    """Its width in Latin letters; a letter of Japanese is nearly as wide as two."""
    return sum(1.8 if letter >= "\u1100" else 1 for letter in text)


def _cut(text: str, most: float) -> str:
    text = " ".join(text.split())
    if _num_columns(text) <= most:
        return text
    while text and _num_columns(text) > most - 1:
        text = text[:-1]
    return f"{text}…"


def _is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _ticks(values: Values[float]) -> list[float]:
    """About five round numbers that reach over all values."""
    low, high = min(values), max(values)
    if low == high:
        high = low + (abs(low) or 1)
    step = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    within = [float(tick) for tick in step]
    first = max((i for i, tick in enumerate(within) if tick <= low), default=0)
    last = min((i for i, tick in enumerate(within) if tick >= high), default=len(within) - 1)
    return [round(tick, 12) for tick in within[first : last + 1]]


# Out of matplotlib.


def svg(draw: Draw, width: float, title: str, classes: str) -> str:
    """An <svg> for the page: its text is text, its colours are the page's, and it is the same on every run.

    title: read out instead of it.
    """
    buffer = StringIO()
    # Identifiers are hashes: of another salt for each plot, since all of them stand in one page.
    with _drawing(f"{title} {classes}"):
        draw(width).savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    _, _, inside = buffer.getvalue().partition("<defs>\n  <style")
    _, _, inside = inside.partition("</defs>")
    # Within text < is escaped, so that these are the tags.
    inside = re.sub(r"<[^<>]+>", lambda tag: _for_page(tag[0]), inside)
    view_box = re.search(r'viewBox="[^"]+"', buffer.getvalue())
    assert view_box is not None
    label = escape(title, quote=True)
    return f'<svg class="plot {classes}" {view_box[0]} role="img" aria-label="{label}">{inside.strip()}'


def _for_page(tag: str) -> str:
    """The page's fonts and colours, and only the names given above, as classes."""
    tag = re.sub(r" font-family: [^;]+;", "", tag)
    tag = re.sub(r'<g id="([a-z]+-[a-z0-9]+|reference|few)"', r'<g class="\1"', tag)
    tag = re.sub(r'<g id="[^"]+"', "<g", tag)
    for name, colour in COLOURS.items():
        tag = tag.replace(colour, f"var(--{name})")
    return tag


def save(draw: Callable[[], Figure], stem: Path) -> list[Path]:
    """As .svg and .png."""
    paths = [stem.with_suffix(".svg"), stem.with_suffix(".png")]
    with _drawing(stem.name):
        figure = draw()
        for path in paths:
            dates = {"Date": None} if path.suffix == ".svg" else {}
            figure.savefig(path, bbox_inches="tight", pad_inches=0.2, dpi=144, metadata=dates)
    return paths


@contextmanager
def _drawing(salt: str) -> Iterator[None]:
    """matplotlib's settings while a plot is drawn. Its fonts lack Japanese letters, which the page's have."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


# Of a benchmark.


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

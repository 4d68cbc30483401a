"""The kinds of plots: estimates with intervals, lines, amounts, and stacked amounts.

Sizes are in CSS pixels, one of which is one point of matplotlib's. Everything is placed by numbers, and nothing by the
width of a word: the page's fonts are not matplotlib's.
"""

import math
from collections.abc import Callable
from collections.abc import Sequence as Values
from dataclasses import dataclass
from typing import Any, TypeGuard

from .canvas import (
    COLOURS,
    LABEL_SIZE,
    Axes,
    Figure,
    MaxNLocator,
    NullLocator,
    blended_transform_factory,
    offset_copy,
)

# A marker a series, so that they differ without colour too; the same as letters, for legends.
MARKERS, LETTERS = "osD^", "●■◆▲"
ROW, BAR_ROW, AXIS, SIDE = 46, 40, 26, 26
LINES_HEIGHT = 230
# Left, right, top, bottom: room for the ticks and the name of x.
LINES_MARGINS = (48, 18, 12, 42)
# Pixels between ticks of an x axis: a label's width, or as much as keeps two apart.
TICK_ROOM = 36
MARKER, SHIFT = 8, 7


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
    """mean: at x. low, high: its 95 % interval."""

    x: float
    mean: float
    low: float | None = None
    high: float | None = None


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
    # A marker on the lowest or highest tick stands clear of the axis and its labels.
    room = MARKER / (LINES_HEIGHT - top - bottom - 2 * MARKER) * (ticks[-1] - ticks[0])
    axes.set_ylim(ticks[0] - room, ticks[-1] + room)
    axes.set_yticks(ticks, [written(tick) for tick in ticks])
    axes.set_xlabel(x_label)
    half = MARKER + SHIFT * (len(series) - 1) / 2
    _x_axis(axes, sorted({point.x for point in points}) or [1], is_logarithmic, width - left - right, half)
    axes.grid(axis="y", color=COLOURS["line"])
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    for level in levels:
        axes.axhline(level, color=COLOURS["edge"], linestyle="--", linewidth=1.5, gid="reference")
    for number, one in enumerate(series):
        # Side by side, so that intervals at one tick do not cover each other.
        _draw(axes, one, number, SHIFT * (number - (len(series) - 1) / 2))
    return figure


def _draw(axes: Axes, one: Series, number: int, shift: float) -> None:
    place = offset_copy(axes.transData, axes.get_figure(root=True), x=shift, units="points")
    colour = COLOURS[one.colour]
    xs, means = [point.x for point in one.points], [point.mean for point in one.points]
    style: dict[str, Any] = {"color": colour, "transform": place, "clip_on": False}
    axes.plot(
        xs, means, linewidth=2, label=one.label, marker=MARKERS[number % len(MARKERS)], markersize=MARKER, **style
    )
    for point in one.points:
        if _is_finite(point.low) and _is_finite(point.high):
            ends = [point.low, point.high]
            axes.plot([point.x] * 2, ends, linewidth=3.5, alpha=0.55, gid=f"interval-{one.colour}", **style)


def _x_axis(axes: Axes, xs: list[float], is_logarithmic: bool, width: float, half: float) -> None:
    """Ticks at values of x alone, as many as have room; where xs are counts, so are the ticks.

    width: of the axes, in pixels. half: pixels to both sides of an x that its markers take.
    """
    scale = math.log2 if is_logarithmic else float
    if is_logarithmic:
        axes.set_xscale("log", base=2)
    first, last = scale(xs[0]), scale(xs[-1])
    # So that `half` pixels are left beyond the first x and the last.
    room = half * (last - first) / (width - 2 * half) or 1.0
    limits = (first - room, last + room)
    axes.set_xlim(*(2.0**limit for limit in limits) if is_logarithmic else limits)
    pixels = width / (limits[1] - limits[0])
    ticks = [xs[0]]
    for x in xs[1:]:
        if (scale(x) - scale(ticks[-1])) * pixels >= TICK_ROOM:
            ticks.append(x)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])


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

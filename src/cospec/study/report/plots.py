"""The report's plots: estimates with intervals, lines, shares and amounts."""

import math
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Values
from dataclasses import dataclass

from .numbers import amount, percent
from .svg import drawing, line, marker, rectangle, share, text

ROW, BAR_ROW, AXIS = 46, 40, 26
# Below so many drafts a point stands on too little, and is drawn hollow.
FEW = 20


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """colour: one of the page's. written: how it reads. hook: by which the page's script finds it."""

    label: str
    mean: float
    written: str
    colour: str
    low: float | None = None
    high: float | None = None
    shape: int = 0
    hook: str = ""


@dataclass(frozen=True, kw_only=True)
class Point:
    """at: its place among the ticks. is_faint: stands on little."""

    at: int
    mean: float
    low: float | None = None
    high: float | None = None
    is_faint: bool = False


@dataclass(frozen=True, kw_only=True)
class Series:
    label: str
    colour: str
    points: tuple[Point, ...]


def intervals(title: str, rows: Values[Estimate], reference: float, written: Callable[[float], str]) -> str:
    """A line an estimate: its name and figure above, its interval and mark on a common scale below."""
    ends = [value for row in rows for value in (row.mean, row.low, row.high) if value is not None]
    scale = Scale.around([*ends, reference])
    height = ROW * len(rows)
    # Behind the marks alone, so that no line runs through a name.
    bands = [(i * ROW + 21, i * ROW + 40) for i in range(len(rows))]
    grid = [line((scale.at(tick), top), (scale.at(tick), end), "grid") for top, end in bands for tick in scale.ticks]
    grid += [line((scale.at(reference), top), (scale.at(reference), end), "reference") for top, end in bands]
    names = [text(scale.at(tick), height + 20, written(tick), "tick", scale.anchor(tick)) for tick in scale.ticks]
    drawn = [part for i, row in enumerate(rows) for part in _estimate(row, i * ROW, scale)]
    return drawing(height + AXIS, title, *grid, *names, *drawn)


def _estimate(row: Estimate, top: float, scale: "Scale") -> Iterator[str]:
    yield text("0%", top + 14, row.label, "label")
    yield text("100%", top + 14, row.written, "figure", "end")
    y = top + 30
    if row.low is not None and row.high is not None:
        yield line((scale.at(row.low), y), (scale.at(row.high), y), f"whisker s-{row.colour}")
    yield marker(scale.at(row.mean), y, f"f-{row.colour}", row.shape)


def amounts(title: str, rows: Values[Estimate], most: float = 0.0) -> str:
    """Bars from nothing on, up to `most` or to the largest."""
    most = most or max((row.mean for row in rows), default=0) or 1
    drawn: list[str] = []
    for i, row in enumerate(rows):
        top = i * BAR_ROW
        drawn += [
            text("0%", top + 13, row.label, "label"),
            text("100%", top + 13, row.written, "figure", "end", row.hook and f"total:{row.hook}"),
            rectangle("0%", top + 20, "100%", 10, "track"),
            rectangle("0%", top + 20, share(row.mean / most), 10, f"f-{row.colour}", row.hook),
        ]
    return drawing(BAR_ROW * len(rows), title, *drawn)


def stacked(title: str, rows: Values[tuple[str, str, Values[tuple[float, str]]]]) -> str:
    """rows: a name, a figure, and what it is made of, with colours. All on one scale."""
    most = max((sum(part for part, _ in parts) for _, _, parts in rows), default=0) or 1
    drawn: list[str] = []
    for i, (name, figure, parts) in enumerate(rows):
        top, start = i * BAR_ROW, 0.0
        drawn += [text("0%", top + 13, name, "label"), text("100%", top + 13, figure, "figure", "end")]
        for part, colour in parts:
            drawn.append(rectangle(share(start / most), top + 20, share(part / most), 12, f"f-{colour} parted"))
            start += part
    return drawing(BAR_ROW * len(rows), title, *drawn)


def lines(
    title: str,
    ticks: Values[str],
    series: Values[Series],
    written: Callable[[float], str],
    *,
    levels: Values[float] = (),
    reach: Values[float] = (),
) -> str:
    """Points at the named ticks, joined. levels: drawn across, such as 1 for the speed of plain. reach: values that the
    scale must reach to."""
    values = [each for one in series for p in one.points for each in (p.mean, p.low, p.high) if each is not None]
    scale = Scale.around([*values, *levels, *reach])
    height = 190.0

    def y(value: float) -> float:
        return 14 + (height - 24) * (1 - scale.share(value))

    def x(at: int, shift: float = 0.0) -> str:
        return share(0.12 + 0.82 * (at + 0.5) / len(ticks) + shift)

    drawn: list[str] = []
    for tick in scale.ticks:
        drawn.append(line(("0%", y(tick)), ("100%", y(tick)), "grid"))
    drawn += [line(("0%", y(level)), ("100%", y(level)), "reference") for level in levels]
    drawn += [text("0%", y(tick) - 4, written(tick), "tick halo") for tick in scale.ticks]
    drawn += [text(x(i), height + 16, name, "tick", "middle") for i, name in enumerate(ticks)]
    for number, one in enumerate(series):
        # Side by side, so that intervals at one tick do not cover each other.
        shift = 0.018 * (number - (len(series) - 1) / 2)
        drawn += [
            line((x(a.at, shift), y(a.mean)), (x(b.at, shift), y(b.mean)), f"joined s-{one.colour}")
            for a, b in zip(one.points, one.points[1:], strict=False)
        ]
        for point in one.points:
            if point.low is not None and point.high is not None:
                drawn.append(
                    line(
                        (x(point.at, shift), y(point.low)),
                        (x(point.at, shift), y(point.high)),
                        f"whisker s-{one.colour}",
                    )
                )
            kind = f"s-{one.colour} hollow" if point.is_faint else f"f-{one.colour}"
            drawn.append(marker(x(point.at, shift), y(point.mean), kind, number))
    return drawing(height + AXIS, title, *drawn)


@dataclass(frozen=True)
class Scale:
    """Round ticks that reach over all values."""

    ticks: tuple[float, ...]

    @classmethod
    def around(cls, values: Values[float]) -> "Scale":
        low, high = min(values), max(values)
        span = (high - low) or abs(high) or 1.0
        rough = span / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        return cls(tuple(round(i * step, 12) for i in range(first, max(last, first + 1) + 1)))

    def share(self, value: float) -> float:
        return (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])

    def at(self, value: float) -> str:
        """Along x, with room for a mark at either end."""
        return share(0.015 + 0.97 * self.share(value))

    def anchor(self, tick: float) -> str:
        return "start" if tick == self.ticks[0] else "end" if tick == self.ticks[-1] else "middle"


def plain_number(value: float) -> str:
    """A tick."""
    return f"{value:g}" if abs(value) < 1000 else amount(value)


def whole_percent(value: float) -> str:
    return percent(round(value, 6))

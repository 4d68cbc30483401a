"""The plots of a report, each as two drawings of which the page shows the one that fits its width."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ..canvas import Draw, svg
from ..drawing import LETTERS, Estimate, Point, Series, Stack, amounts, intervals, lines, stacked
from ..results import ALL, PLAIN, SINGLE, Interval, MechanismRow, ProposerRow, Relaxed, SpeedRow
from .filters import amount, percent, score, times
from .view import View

# In CSS pixels: of a desk's column, and of a phone.
WIDTHS = {"wide": 760, "narrow": 340}
# A position with fewer drafts is left out of the plot.
FEW = 20


@dataclass(frozen=True, kw_only=True)
class Chart:
    """legend: a marker as a letter, a colour and a label for each series."""

    title: str
    drawings: str
    legend: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Charts:
    view: View

    def by_method(self) -> Chart:
        view = self.view
        rows = [self._speed(row, view.method(row.method)) for row in view.speeds_here]
        title = view.say("speed.by method", {"planned": view.at_once(view.planned)})
        return _chart(title, lambda width: intervals(width, rows, 1, _factor))

    def by_category(self) -> Chart:
        view = self.view
        rows = [self._speed(row, view.category(row.category)) for row in view.own_by_category]
        values = {"ours": view.method(view.ours), "planned": view.at_once(view.planned)}
        return _chart(view.say("speed.by category", values), lambda width: intervals(width, rows, 1, _factor))

    def by_concurrency(self) -> Chart | None:
        """None where no method has a speed over plain."""
        view = self.view
        names = [name for name in view.study.settings.methods if name != PLAIN and not name.startswith(SINGLE)]
        series = [one for name in names if (one := self._by_concurrency(name)).points]
        if not series:
            return None
        label = view.say("setting.concurrencies")
        draw = partial(lines, series=series, written=_factor, x_label=label, levels=[1], is_logarithmic=True)
        return _chart(view.say("speed.by concurrency"), draw, series)

    def _by_concurrency(self, method: str) -> Series:
        rows = [self.view.study.speed.row(method, level) for level in self.view.levels]
        points = tuple(_point(row.concurrency, row.over_plain) for row in rows if row and row.over_plain)
        return Series(label=self.view.method(method), colour=self.view.colour(method), points=points)

    def _speed(self, row: SpeedRow, label: str) -> Estimate:
        over, view = row.over_plain, self.view
        return Estimate(
            label=label,
            mean=over.mean if over else 1.0,
            low=over.low if over else None,
            high=over.high if over else None,
            written=view.interval(over) if over else times(1),
            colour=view.colour(row.method),
        )

    def by_place(self, row: MechanismRow) -> Chart | None:
        """Acceptance by position in a block of drafts; None where nothing was proposed."""
        view, proposers = self.view, row.proposers
        shares = {each.name: _places(each) for each in proposers}
        num = max((found[-1][0] for found in shares.values() if found), default=0)
        title = view.say("mechanism.by place", {"name": view.method(row.method), "at": view.at_once(row.concurrency)})
        if num <= 1:
            bars = [
                Estimate(
                    label=each.name,
                    mean=each.acceptance,
                    written=f"{each.accepted} / {each.proposed} = {percent(each.acceptance)}",
                    colour=view.lane_colour(each.name),
                )
                for each in proposers
                if shares[each.name]
            ]
            return _chart(title, lambda width: amounts(width, bars, 1.0)) if num else None
        series = [
            Series(
                label=each.name,
                colour=view.lane_colour(each.name),
                points=tuple(Point(x=x, mean=share) for x, share in shares[each.name]),
            )
            for each in proposers
            if shares[each.name]
        ]
        label = view.say("mechanism.place")
        return _chart(title, lambda width: lines(width, series, _percent, x_label=label, reach=[0, 1]), series)

    def lanes(self) -> Chart:
        view, rows = self.view, self.view.mechanisms_here
        stacks = [
            Stack(
                label=view.method(row.method),
                written=view.say(
                    "word.seconds", {"num": amount(sum(lane.seconds_per_100_tokens for lane in row.lanes))}
                ),
                parts=tuple((lane.seconds_per_100_tokens, view.lane_colour(lane.name)) for lane in row.lanes),
            )
            for row in rows
        ]
        names = dict.fromkeys(lane.name for row in rows for lane in row.lanes)
        chart = _chart(
            view.say("mechanism.lanes", {"at": view.at_once(rows[0].concurrency)}), lambda width: stacked(width, stacks)
        )
        legend = tuple(("■", view.lane_colour(name), name) for name in names)
        return Chart(title=chart.title, drawings=chart.drawings, legend=legend)

    def scores(self) -> Chart:
        view = self.view
        rows = [
            Estimate(
                label=view.method(row.method),
                mean=row.score.mean,
                low=row.score.low,
                high=row.score.high,
                written=view.interval(row.score, score),
                colour=view.colour(row.method),
            )
            for row in view.study.gained.scores
            if row.category == ALL
        ]
        return _chart(view.say("gained.scores"), lambda width: intervals(width, rows, 0, _number))

    def perplexities(self) -> Chart:
        view = self.view
        rows = [
            Estimate(
                label=view.method(row.method),
                mean=row.perplexity,
                written=amount(row.perplexity),
                colour="c0" if row.method == "ensemble" else "neutral",
            )
            for row in view.study.gained.perplexities
            if row.category == ALL
        ]
        return _chart(view.say("gained.perplexities"), lambda width: amounts(width, rows))

    def relaxed_quality(self, found: Relaxed) -> Chart:
        measure = self.view.say(f"relaxed.{found.measure}")
        points = tuple(_point(row.lam, row.quality) for row in found.rows)
        floor = self.view.relaxed_floor(found)
        levels = [] if floor is None else [floor]
        return self._over_lambda(self.view.say("relaxed.quality", {"measure": measure}), points, _number, levels)

    def relaxed_speed(self, found: Relaxed) -> Chart:
        exact = Interval(mean=1.0, low=None, high=None, num=0)
        points = tuple(_point(row.lam, row.over_exact or exact) for row in found.rows)
        return self._over_lambda(self.view.say("relaxed.speed"), points, _factor, [1.0])

    def _over_lambda(
        self, title: str, points: tuple[Point, ...], written: Callable[[float], str], levels: list[float]
    ) -> Chart:
        series = [Series(label=title, colour="c0", points=points)]
        return _chart(title, lambda width: lines(width, series, written, x_label="λ", levels=levels))


def _chart(title: str, draw: Draw, series: list[Series] | None = None) -> Chart:
    drawings = "".join(svg(draw, width, title, classes) for classes, width in WIDTHS.items())
    legend = tuple((LETTERS[i % len(LETTERS)], one.colour, one.label) for i, one in enumerate(series or []))
    return Chart(title=title, drawings=drawings, legend=legend)


def _places(proposer: ProposerRow) -> list[tuple[int, float]]:
    """Position from 1 -> acceptance there, of those with enough drafts."""
    both = zip(proposer.acceptance_at, proposer.proposed_at, strict=True)
    return [(at, share) for at, (share, num) in enumerate(both, start=1) if num >= FEW]


def _point(x: float, found: Interval) -> Point:
    return Point(x=x, mean=found.mean, low=found.low, high=found.high)


def _factor(value: float) -> str:
    return f"{value:.4g}×"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _percent(value: float) -> str:
    return percent(round(value, 6))

"""A lossy target, where the criteria allow one: quality and speed over λ."""

from collections.abc import Callable, Iterator

from ...results import Interval, Relaxed
from ..blocks import Block, Cell, Note, Plot, Section, Table, columns
from ..numbers import amount, percent, score, signed, times
from ..plots import Point, Series, lines, plain_number
from ..view import View


def relaxed(view: View) -> Section:
    found, say = view.study.relaxed, view.say
    if found is None:
        asked = view.study.settings.criteria.relaxed is not None
        blocks: tuple[Block, ...] = (Note(text=view.missing() if asked else say("relaxed.not asked")),)
    else:
        blocks = tuple(_blocks(view, found))
    return Section(anchor="relaxed", title=say("relaxed.title"), blocks=blocks)


def _blocks(view: View, found: Relaxed) -> Iterator[Block]:
    say = view.say
    values = {
        "target": found.target,
        "drafter": found.drafter,
        "gamma": found.gamma,
        "margin": f"{found.margin:g}",
        "lam": f"{found.chosen:g}",
        "distribution": found.distribution,
        "measure": say(f"relaxed.{found.measure}"),
    }
    yield Note(text=say("relaxed.says", values))
    yield Note(text=say("relaxed.chosen" if found.chosen else "relaxed.none", values), tone="strong")
    if found.rows:
        ticks = [f"λ = {row.lam:g}" for row in found.rows]
        quality = [row.quality for row in found.rows]
        speeds = [row.over_exact for row in found.rows]
        # No score lies below 0: such a margin allows everything.
        floor = found.rows[0].quality.mean - found.margin
        levels = [floor] if floor > 0 or found.measure != "score" else []
        yield _plot(say("relaxed.quality", values), ticks, quality, plain_number, levels)
        yield Note(text=say("relaxed.quality says" if levels else "relaxed.quality free"))
        exact = Interval(mean=1.0, low=None, high=None, num=0)
        yield _plot(say("relaxed.speed"), ticks, [each or exact for each in speeds], times, [1.0])
        yield Note(text=say("relaxed.speed says"))
    yield _table(view, found)
    yield view.formulas("relaxed", "lambda")


def _plot(
    title: str, ticks: list[str], found: list[Interval], written: Callable[[float], str], levels: list[float]
) -> Plot:
    points = tuple(Point(at=at, mean=each.mean, low=each.low, high=each.high) for at, each in enumerate(found))
    series = [Series(label=title, colour="c0", points=points)]
    return Plot(title=title, svg=lines(title, ticks, series, written, levels=levels))


def _table(view: View, found: Relaxed) -> Table:
    say = view.say
    return Table(
        title=say("relaxed.table"),
        columns=columns(say("relaxed.columns")),
        rows=tuple(
            (
                Cell(text=f"{row.lam:g}", tone="strong" if row.lam == found.chosen else ""),
                view.estimate(row.quality, score),
                view.estimate(row.difference, signed),
                Cell(
                    text=say("word.yes" if row.is_within else "word.no"),
                    tone="good" if row.is_within else "bad",
                ),
                Cell(text="–" if row.acceptance is None else percent(row.acceptance)),
                Cell(text=amount(row.tokens_per_second)),
                view.estimate(row.over_exact),
            )
            for row in found.rows
        ),
    )

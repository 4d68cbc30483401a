"""How fast, by method, by category, and by texts at once."""

from collections.abc import Iterator

from ...results import ALL, PLAIN, SINGLE, Percentiles, SpeedRow
from ..blocks import Block, Cell, Column, Note, Plot, Section, Table, columns, texts
from ..numbers import amount, times
from ..plots import Estimate, Point, Series, intervals, lines
from ..view import View


def speed(view: View) -> Section:
    rows = view.study.speed.rows
    blocks = tuple(_blocks(view)) if rows else (Note(text=view.missing(), tone="unknown"),)
    return Section(anchor="speed", title=view.say("speed.title"), blocks=blocks)


def _blocks(view: View) -> Iterator[Block]:
    say, settings = view.say, view.study.settings
    timed = {i for run in view.study.measurements if run.concurrency == view.planned for i in run.prompts}
    values = {"num": len(timed), "tokens": settings.tokens, "repeats": settings.repeats}
    yield Note(text=say("speed.says", {**values, "temperature": f"{settings.temperature:g}"}))
    here = [row for row in view.study.speed.rows if row.category == ALL and row.concurrency == view.planned]
    if any(row.over_plain for row in here):
        yield _by_method(view, here)
        yield Note(text=say("speed.by method says"))
    yield from _by_category(view)
    yield from _by_concurrency(view)
    yield _table(view)
    yield Note(text=say("speed.table says"))
    yield view.formulas("speed", "interval", "times", "first token", "pays")


def _by_method(view: View, rows: list[SpeedRow]) -> Plot:
    title = view.say("speed.by method", {"planned": view.at_once(view.planned)})
    return Plot(title=title, svg=intervals(title, [_estimate(view, row) for row in rows], 1, times))


def _estimate(view: View, row: SpeedRow, label: str = "") -> Estimate:
    over = row.over_plain
    return Estimate(
        label=label or view.method(row.method),
        mean=over.mean if over else 1.0,
        low=over.low if over else None,
        high=over.high if over else None,
        written=view.interval(over) if over else times(1),
        colour=view.colour(row.method),
    )


def _by_category(view: View) -> Iterator[Block]:
    """Ours on each category, at the planned concurrency."""
    say = view.say
    rows = [row for row in view.study.speed.rows if row.category != ALL and row.concurrency == view.planned]
    own = [row for row in rows if row.method == view.ours and row.over_plain]
    if not own:
        return
    title = say("speed.by category", {"ours": view.method(view.ours), "planned": view.at_once(view.planned)})
    drawn = [_estimate(view, row, view.category(row.category)) for row in own]
    yield Plot(title=title, svg=intervals(title, drawn, 1, times))
    yield Note(text=say("speed.by category says"))
    yield _categories(view)


def _categories(view: View) -> Table:
    """All methods on each category, at each number of texts at once."""
    say = view.say
    rows = [row for row in view.study.speed.rows if row.category != ALL]
    methods = list(dict.fromkeys(row.method for row in rows if row.method != PLAIN))
    return Table(
        title=say("speed.categories"),
        columns=(
            Column(title=say("column.category")),
            Column(title=say("column.at once"), is_number=True),
            *(Column(title=view.method(name), is_number=True) for name in methods),
        ),
        rows=tuple(
            (
                *texts(view.category(category), str(concurrency)),
                *(_over_plain(view, name, concurrency, category) for name in methods),
            )
            for category, concurrency in dict.fromkeys((row.category, row.concurrency) for row in rows)
        ),
    )


def _over_plain(view: View, method: str, concurrency: int, category: str) -> Cell:
    row = view.study.speed.row(method, concurrency, category)
    return view.estimate(row.over_plain) if row else Cell(text=view.missing())


def _by_concurrency(view: View) -> Iterator[Block]:
    say, speed = view.say, view.study.speed
    levels = sorted({row.concurrency for row in speed.rows})
    if view.ours in speed.pays_up_to:
        up_to = speed.pays_up_to[view.ours]
        values = {"ours": view.method(view.ours), "up_to": view.at_once(up_to)}
        yield Note(text=say("speed.pays" if up_to else "speed.pays never", values), tone="strong")
    if len(levels) < 2:
        yield Note(text=say("speed.one concurrency", {"at": view.at_once(levels[0])}))
        return
    methods = [name for name in view.study.settings.methods if name != PLAIN and not name.startswith(SINGLE)]
    series = [one for name in methods if (one := _series(view, name, levels)).points]
    if series:
        title = say("speed.by concurrency")
        ticks = [view.at_once(level) for level in levels]
        legend = tuple((one.label, one.colour) for one in series)
        yield Plot(title=title, svg=lines(title, ticks, series, times, levels=[1.0]), legend=legend)
        yield Note(text=say("speed.by concurrency says"))


def _series(view: View, method: str, levels: list[int]) -> Series:
    rows = [(at, view.study.speed.row(method, level)) for at, level in enumerate(levels)]
    points = tuple(
        Point(at=at, mean=row.over_plain.mean, low=row.over_plain.low, high=row.over_plain.high)
        for at, row in rows
        if row and row.over_plain
    )
    return Series(label=view.method(method), colour=view.colour(method), points=points)


def _table(view: View) -> Table:
    return Table(
        title=view.say("speed.table"),
        columns=columns(view.say("speed.columns")),
        rows=tuple(
            (
                *texts(view.method(row.method), str(row.concurrency), amount(row.tokens_per_second)),
                *texts(_percentiles(row.ms_per_token), _percentiles(row.first_token_ms)),
                view.estimate(row.over_plain) if row.over_plain else Cell(text=times(1)),
            )
            for row in view.study.speed.rows
            if row.category == ALL
        ),
    )


def _percentiles(found: Percentiles) -> str:
    return " / ".join(amount(value) for value in (found.p50, found.p95, found.p99))

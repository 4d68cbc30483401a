"""How the speed comes about: acceptance, calls, who takes the time, theory."""

from collections.abc import Iterator

from ...results import PLAIN, SINGLE, MechanismRow, ProposerRow
from ..blocks import Block, Cell, Note, Plot, Section, Table, columns, texts
from ..numbers import amount, percent, times
from ..plots import FEW, Estimate, Point, Series, amounts, lines, stacked, whole_percent
from ..view import View


def mechanism(view: View) -> Section:
    rows = [row for row in view.study.mechanism.rows if not row.method.startswith(SINGLE)]
    blocks = tuple(_blocks(view, rows)) if rows else (Note(text=view.missing(), tone="unknown"),)
    return Section(anchor="mechanism", title=view.say("mechanism.title"), blocks=blocks)


def _blocks(view: View, rows: list[MechanismRow]) -> Iterator[Block]:
    say = view.say
    here = [row for row in rows if row.concurrency == view.planned] or rows
    ours = next((row for row in here if row.method == view.ours), None)
    yield Note(text=say("mechanism.says"))
    if ours:
        yield from _in_words(view, ours)
    yield from _acceptance(view, rows, here)
    yield from _lanes(view, here)
    yield _theory(view, rows)
    yield Note(text=say("mechanism.theory says"))
    yield view.formulas("acceptance", "block", "share", "theory")


def _in_words(view: View, ours: MechanismRow) -> Iterator[Block]:
    say = view.say
    share = max((lane.share for lane in ours.lanes), default=0.0)
    values = {
        "ours": view.method(ours.method),
        "tokens": f"{ours.block_efficiency:.2f}",
        "name": ours.bottleneck,
        "share": percent(share),
        "outside": percent(ours.share_outside_models),
    }
    yield Note(text=say("mechanism.block", values))
    yield Note(text=say("mechanism.bottleneck", values))
    if ours.plans:
        plans = [say("word.texts", {"name": name, "num": num}) for name, num in ours.plans.items()]
        yield Note(text=say("mechanism.plans", {"ours": view.method(ours.method), "plans": view.listed(plans)}))


def _acceptance(view: View, rows: list[MechanismRow], here: list[MechanismRow]) -> Iterator[Block]:
    say = view.say
    if not any(row.proposers for row in rows):
        yield Note(text=say("mechanism.nothing proposed", {"what": view.missing("nothing proposed")}))
        return
    for row in here:
        yield from _by_place(view, row)
    if any(row.proposers for row in here):
        yield Note(text=say("mechanism.by place says", {"few": FEW}))
    yield Table(
        title=say("mechanism.proposers"),
        columns=columns(say("mechanism.proposers columns"), num_words=2),
        rows=tuple(
            texts(
                view.method(row.method),
                each.name,
                str(row.concurrency),
                f"{each.accepted} / {each.proposed}",
                percent(each.acceptance),
                " · ".join(percent(round(share, 2)) for share in each.acceptance_at) or "–",
            )
            for row in rows
            for each in row.proposers
        ),
    )
    yield Note(text=say("mechanism.proposers says"))


def _by_place(view: View, row: MechanismRow) -> Iterator[Block]:
    num = max((len(each.acceptance_at) for each in row.proposers), default=0)
    if not num:
        return
    title = view.say("mechanism.by place", {"name": view.method(row.method), "at": view.at_once(row.concurrency)})
    if num == 1:
        yield Plot(title=title, svg=amounts(title, [_bar(view, each) for each in row.proposers], 1.0))
        return
    series = [
        Series(
            label=each.name,
            colour=view.lane_colour(each.name),
            points=tuple(
                Point(at=at, mean=share, is_faint=each.proposed_at[at] < FEW)
                for at, share in enumerate(each.acceptance_at)
            ),
        )
        for each in row.proposers
    ]
    ticks = [view.say("word.place", {"num": place}) for place in range(1, num + 1)]
    legend = tuple((one.label, one.colour) for one in series)
    yield Plot(title=title, svg=lines(title, ticks, series, whole_percent, reach=[0.0, 1.0]), legend=legend)


def _bar(view: View, row: ProposerRow) -> Estimate:
    written = f"{row.accepted} / {row.proposed} = {percent(row.acceptance)}"
    return Estimate(label=row.name, mean=row.acceptance, written=written, colour=view.lane_colour(row.name))


def _lanes(view: View, rows: list[MechanismRow]) -> Iterator[Block]:
    say = view.say
    title = say("mechanism.lanes", {"at": view.at_once(rows[0].concurrency)})
    drawn = [
        (
            view.method(row.method),
            say("word.seconds", {"num": amount(sum(lane.seconds_per_100_tokens for lane in row.lanes))}),
            [(lane.seconds_per_100_tokens, view.lane_colour(lane.name)) for lane in row.lanes],
        )
        for row in rows
    ]
    names = dict.fromkeys(lane.name for row in rows for lane in row.lanes)
    yield Plot(title=title, svg=stacked(title, drawn), legend=tuple((name, view.lane_colour(name)) for name in names))
    yield Table(
        title=say("mechanism.calls"),
        columns=columns(say("mechanism.calls columns"), num_words=2),
        rows=tuple(
            (
                Cell(text=view.method(row.method)),
                Cell(text=lane.name, below=say("word.drafter") if lane.is_drafter else ""),
                Cell(text=amount(lane.calls_per_100_tokens)),
                Cell(text=amount(1000 * lane.seconds_per_100_tokens)),
                Cell(text=percent(lane.share), tone="strong" if lane.name == row.bottleneck else ""),
            )
            for row in rows
            for lane in row.lanes
        ),
    )
    yield Note(text=say("mechanism.calls says"))


def _theory(view: View, rows: list[MechanismRow]) -> Table:
    return Table(
        title=view.say("mechanism.theory"),
        columns=columns(view.say("mechanism.theory columns")),
        rows=tuple(
            texts(
                view.method(row.method),
                str(row.concurrency),
                f"{row.block_efficiency:.2f}",
                times(row.theory_over_plain) if row.theory_over_plain is not None else view.missing(),
                times(row.measured_over_plain) if row.measured_over_plain is not None else view.missing(),
                percent(row.share_outside_models),
            )
            for row in rows
            if row.method != PLAIN
        ),
    )

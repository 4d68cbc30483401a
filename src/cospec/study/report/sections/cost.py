"""What it costs, by prices that the reader may change, and the memory that it takes."""

from collections.abc import Iterator

from ...results import CostRow, MemoryRow
from ..blocks import Block, Cell, Field, Note, Plot, Prices, Section, Table, columns
from ..numbers import amount, money, size
from ..plots import Estimate, amounts
from ..view import View


def cost(view: View) -> Section:
    say = view.say
    formulas = view.formulas("cost", "kwh", "energy", "saving", "memory")
    blocks = (*_prices(view), *_costs(view), *_memory(view), formulas)
    return Section(anchor="cost", title=say("cost.title"), blocks=blocks)


def key(row: CostRow) -> str:
    """By which the page's script finds what belongs to it."""
    return f"{row.method}@{row.concurrency}"


def _prices(view: View) -> Iterator[Block]:
    say, prices = view.say, view.study.settings.prices
    machines = [
        Field(
            label=say("cost.per hour of", {"name": each.name, "count": each.count}),
            name="per_hour",
            value=each.per_hour,
            count=each.count,
        )
        for each in prices.machines
    ]
    yield Prices(
        fields=(
            *(machines or [Field(label=say("cost.per hour"), name="per_hour", value=None)]),
            Field(label=say("cost.per kwh"), name="per_kwh", value=prices.electricity_per_kwh),
            Field(label=say("cost.volume"), name="volume", value=prices.tokens_per_month),
        )
    )


def _costs(view: View) -> Iterator[Block]:
    say, found = view.say, view.study.cost
    yield Note(text=_saving(view), tone="strong", hook="saving")
    here = [row for row in found.rows if row.concurrency == view.planned]
    if here:
        title = say("cost.plot", {"planned": view.at_once(view.planned)})
        yield Plot(title=title, svg=amounts(title, [_bar(view, row) for row in here]))
    if not found.rows:
        yield Note(text=view.missing(), tone="unknown")
        return
    yield Table(
        title=say("cost.table"),
        columns=columns(say("cost.columns")),
        rows=tuple(_row(view, row) for row in found.rows),
    )
    yield Note(text=say("cost.says"))
    source = found.energy_source
    yield Note(text=say("cost.energy source", {"source": source.upper()}) if source else say("cost.no energy"))


def _saving(view: View) -> str:
    say, saved = view.say, view.study.cost.saving_per_month
    if saved is None:
        return say("cost.no saving", {"reason": view.missing(view.study.cost.saving_reason)})
    values = {"amount": money(abs(saved), view.currency), "planned": view.at_once(view.planned)}
    return say("cost.saving" if saved >= 0 else "cost.loss", values)


def _bar(view: View, row: CostRow) -> Estimate:
    return Estimate(
        label=view.method(row.method),
        mean=row.total or 0.0,
        written="–" if row.total is None else money(row.total, view.currency),
        colour=view.colour(row.method),
        hook=key(row),
    )


def _row(view: View, row: CostRow) -> tuple[Cell, ...]:
    def paid(value: float | None) -> str:
        return "–" if value is None else money(value, view.currency)

    return (
        Cell(text=view.method(row.method)),
        Cell(text=str(row.concurrency)),
        Cell(text=amount(row.tokens_per_second)),
        Cell(text=paid(row.money), hook=f"machines:{key(row)}"),
        Cell(text="–" if row.kwh is None else f"{amount(row.kwh)} kWh"),
        Cell(text=paid(row.energy_money), hook=f"energy:{key(row)}"),
        Cell(text=paid(row.total), tone="strong", hook=f"total:{key(row)}"),
    )


def _memory(view: View) -> Iterator[Block]:
    say, found = view.say, view.study.cost
    yield Table(
        title=say("cost.memory"),
        columns=columns(say("cost.memory columns"), num_words=2),
        rows=tuple(_memory_row(view, row) for row in found.memory),
    )
    total = view.missing("runner does not tell") if found.memory_total is None else size(found.memory_total)
    yield Note(text=say("cost.memory says", {"total": total, "peak": size(found.peak_memory)}))


def _memory_row(view: View, row: MemoryRow) -> tuple[Cell, ...]:
    say = view.say
    shared = say("cost.shares with", {"name": row.shares_with}) if row.shares_with else ""

    def held(num_bytes: int | None) -> str:
        return "–" if num_bytes is None else size(num_bytes)

    role = say("word.drafter") if row.is_drafter else say("word.member")
    return (
        Cell(text=row.name, below=shared or role),
        Cell(text=row.device),
        Cell(text=held(row.weights)),
        Cell(text=held(row.cache)),
    )

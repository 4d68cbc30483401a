"""Money and energy per million tokens, memory, and the saving a month."""

from ..ensemble import Ensemble
from .ledger import Ledger
from .memory import memory, total
from .pilot_settings import PilotSettings
from .prices import Prices
from .results import ALL, PLAIN, Cost, CostRow, Reason, Speed, SpeedRow

MILLION = 1e6
JOULES_PER_KWH = 3.6e6


def cost(settings: PilotSettings, ledger: Ledger, speed: Speed, ensemble: Ensemble, energy_source: str | None) -> Cost:
    """Of every method at every concurrency; memory is the most over all runs."""
    rows = tuple(_row(row, ledger, settings.prices) for row in speed.rows if row.category == ALL)
    held = memory(ensemble, ledger)
    saving, reason = _saving(rows, settings)
    return Cost(
        rows=rows,
        energy_source=energy_source,
        memory=held,
        memory_total=total(held),
        peak_memory=ledger.peak_memory,
        saving_per_month=saving,
        saving_reason=reason,
    )


def _row(row: SpeedRow, ledger: Ledger, prices: Prices) -> CostRow:
    runs = [m for m in ledger.measurements if (m.method, m.concurrency) == (row.method, row.concurrency)]
    joules = [run.joules for run in runs if run.joules is not None]
    is_metered = len(joules) == len(runs)
    kwh = sum(joules) / sum(run.tokens for run in runs) * MILLION / JOULES_PER_KWH if is_metered else None
    per_hour, per_kwh = prices.per_hour, prices.electricity_per_kwh
    money = None if per_hour is None else per_hour / (row.tokens_per_second * 3600) * MILLION
    energy_money = None if kwh is None or per_kwh is None else kwh * per_kwh
    # Energy that is paid for and was not measured makes the total unknown, not zero.
    is_known = money is not None and (per_kwh is None or energy_money is not None)
    return CostRow(
        method=row.method,
        concurrency=row.concurrency,
        tokens_per_second=row.tokens_per_second,
        money=money,
        kwh=kwh,
        energy_money=energy_money,
        total=(money or 0.0) + (energy_money or 0.0) if is_known else None,
    )


def _saving(rows: tuple[CostRow, ...], settings: PilotSettings) -> tuple[float | None, Reason]:
    volume = settings.prices.tokens_per_month
    if settings.prices.per_hour is None:
        return None, "no prices"
    if volume is None:
        return None, "no volume"
    found = {row.method: row for row in rows if row.concurrency == settings.criteria.planned_concurrency}
    plain, own = found.get(PLAIN), found.get(settings.ours)
    if plain is None or own is None:
        return None, "no such concurrency"
    if plain.total is None or own.total is None:
        return None, own.reason or plain.reason
    return (plain.total - own.total) * volume / MILLION, ""

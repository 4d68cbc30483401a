"""What it costs: money and energy per million tokens, memory, and what is saved in a month."""

import resource

from torch import nn

from ..ensemble import Ensemble
from ..runner import Runner
from ..runner.hf import HfRunner
from ..runner.lookup import LookupRunner
from .asked import Asked
from .ledger import Ledger
from .prices import Prices
from .results import ALL, PLAIN, Cost, CostRow, MemoryRow, Reason, Speed, SpeedRow

MILLION = 1e6
JOULES_PER_KWH = 3.6e6


def cost(asked: Asked, ledger: Ledger, speed: Speed, ensemble: Ensemble, energy_source: str | None) -> Cost:
    """Of every method at every concurrency; memory as it is now, after the runs."""
    rows = tuple(_row(row, ledger, asked.prices) for row in speed.rows if row.category == ALL)
    memory = _memory(ensemble)
    saving, reason = _saving(rows, asked)
    return Cost(
        rows=rows,
        energy_source=energy_source,
        memory=memory,
        memory_total=_total(memory),
        peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        saving_per_month=saving,
        saving_reason=reason,
    )


def _row(row: SpeedRow, ledger: Ledger, prices: Prices) -> CostRow:
    runs = [m for m in ledger.measurements if (m.method, m.concurrency) == (row.method, row.concurrency)]
    joules = [run.joules for run in runs if run.joules is not None]
    is_metered = len(joules) == len(runs)
    kwh = sum(joules) / sum(run.tokens for run in runs) * MILLION / JOULES_PER_KWH if is_metered else None
    per_hour, per_kwh = prices.per_hour, prices.electricity_per_kwh
    return CostRow(
        method=row.method,
        concurrency=row.concurrency,
        tokens_per_second=row.tokens_per_second,
        money=None if per_hour is None else per_hour / (row.tokens_per_second * 3600) * MILLION,
        kwh=kwh,
        energy_money=None if kwh is None or per_kwh is None else kwh * per_kwh,
    )


def total_money(row: CostRow) -> float | None:
    """With energy, where it is paid for and measured."""
    return None if row.money is None else row.money + (row.energy_money or 0.0)


def _saving(rows: tuple[CostRow, ...], asked: Asked) -> tuple[float | None, Reason]:
    volume = asked.prices.tokens_per_month
    if asked.prices.per_hour is None or volume is None:
        return None, "no prices"
    found = {row.method: total_money(row) for row in rows if row.concurrency == asked.criteria.planned_concurrency}
    plain, own = found.get(PLAIN), found.get(asked.ours)
    if plain is None or own is None:
        return None, "no such concurrency"
    return (plain - own) * volume / MILLION, ""


def _memory(ensemble: Ensemble) -> tuple[MemoryRow, ...]:
    names = ensemble.names
    return tuple(
        _memory_row(name, runner, name in ensemble.drafter_names, names[ensemble.runners.index(runner)])
        for name, runner in zip(names, ensemble.runners, strict=True)
    )


def _memory_row(name: str, runner: Runner, is_drafter: bool, first: str) -> MemoryRow:
    weights, cache = None, None
    if isinstance(runner, HfRunner):
        weights, cache = _weights(runner.model), runner.cache_bytes
    elif isinstance(runner, LookupRunner):
        weights, cache = 0, 0
    return MemoryRow(
        name=name,
        is_drafter=is_drafter,
        weights=weights,
        cache=cache,
        device=device(runner),
        shares_with=None if first == name else first,
    )


def device(runner: Runner) -> str:
    """Where it computes."""
    return str(runner.model.device) if isinstance(runner, HfRunner) else "cpu"


def _weights(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def _total(memory: tuple[MemoryRow, ...]) -> int | None:
    """None where one does not tell; what is shared counts once."""
    own = [row for row in memory if row.shares_with is None]
    if any(row.weights is None or row.cache is None for row in own):
        return None
    return sum((row.weights or 0) + (row.cache or 0) for row in own)

"""Memory of members and drafters: their weights, and the most that their caches held in any run of a study."""

import resource

from torch import nn

from ..ensemble import Ensemble
from ..runner import Runner
from ..runner.hf import HfRunner
from ..runner.lookup import LookupRunner
from .ledger import Ledger
from .results import MemoryRow


def note_memory(ensemble: Ensemble, ledger: Ledger) -> None:
    """Keep in the ledger what is held now, where it is the most so far: a run that goes on begins with empty caches."""
    ledger.peak_memory = max(ledger.peak_memory, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    for name, runner in zip(ensemble.names, ensemble.runners, strict=True):
        held = _cache(runner)
        if held is not None:
            ledger.caches[name] = max(ledger.caches.get(name, 0), held)


def memory(ensemble: Ensemble, ledger: Ledger) -> tuple[MemoryRow, ...]:
    """A row a member or drafter."""
    names, runners = ensemble.names, ensemble.runners
    firsts = [names[runners.index(runner)] for runner in runners]
    return tuple(
        MemoryRow(
            name=name,
            is_drafter=name in ensemble.drafter_names,
            weights=_weights(runner),
            cache=ledger.caches.get(name),
            device=device(runner),
            shares_with=None if first == name else first,
        )
        for name, runner, first in zip(names, runners, firsts, strict=True)
    )


def total(rows: tuple[MemoryRow, ...]) -> int | None:
    """None where one does not tell; what is shared counts once."""
    own = [row for row in rows if row.shares_with is None]
    if any(row.weights is None or row.cache is None for row in own):
        return None
    return sum((row.weights or 0) + (row.cache or 0) for row in own)


def device(runner: Runner) -> str:
    """Where it computes."""
    return str(runner.model.device) if isinstance(runner, HfRunner) else "cpu"


def _weights(runner: Runner) -> int | None:
    if isinstance(runner, HfRunner):
        return _size(runner.model)
    return 0 if isinstance(runner, LookupRunner) else None


def _size(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def _cache(runner: Runner) -> int | None:
    if isinstance(runner, HfRunner):
        return runner.cache_bytes
    return 0 if isinstance(runner, LookupRunner) else None

"""Memory: the peaks of the process and of CUDA devices, and what members and drafters hold."""

import gc
import resource
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from ..ensemble import Ensemble
from ..runner import Runner
from ..runner.hf import HfRunner, storages
from ..runner.llamacpp import LlamaCppRunner
from ..runner.lookup import LookupRunner
from ..runner.protocol import placed_on, server_of
from .ledger import Ledger
from .results import MemoryRow

_PROCESS = Path("/proc/self")
# Written to `clear_refs`, it resets the peak to what is held now (Linux: Documentation/filesystems/proc.rst).
_RESET_PEAK = "5"


def reset_peaks() -> None:
    """Measure peaks from now on. Where a system cannot do that, they stay those of the process so far."""
    with suppress(OSError):
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    for device in range(torch.cuda.device_count()):
        torch.cuda.reset_peak_memory_stats(device)


def release() -> None:
    """Give back what is held for nobody, such as the cache of a method that ran out of memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def note_peaks(ledger: Ledger, key: str) -> None:
    """Raise the ledger's peaks under this key, and that of the process, to those since the last reset."""
    held = {
        "process": process_peak(),
        "cuda": sum(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count())),
    }
    known = ledger.peaks.get(key, {})
    ledger.peaks[key] = {where: peak for where, new in held.items() if (peak := max(new, known.get(where, 0)))}
    ledger.peak_memory = max(ledger.peak_memory, held["process"])


def process_peak() -> int:
    """The most bytes that the process held since the last reset."""
    try:
        lines = (_PROCESS / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def note_memory(ensemble: Ensemble, ledger: Ledger) -> None:
    """Raise the ledger's peaks of the process and of caches to what is held now; a resumed run has empty caches."""
    ledger.peak_memory = max(ledger.peak_memory, process_peak())
    for name, runner in zip(ensemble.names, ensemble.runners, strict=True):
        held = _cache(runner)
        if held is not None:
            ledger.caches[name] = max(ledger.caches.get(name, 0), held)


def memory(ensemble: Ensemble, ledger: Ledger) -> tuple[MemoryRow, ...]:
    """A row for each member and drafter."""
    names, runners = ensemble.names, ensemble.runners
    firsts = [names[runners.index(runner)] for runner in runners]
    served = [names[[*map(server_of, runners)].index(server_of(runner))] for runner in runners]
    return tuple(
        MemoryRow(
            name=name,
            is_drafter=name in ensemble.drafter_names,
            weights=_weights(runner, runners[: names.index(first)]),
            # An adapter's keys and values stand in its base's cache.
            cache=ledger.caches.get(name) if server in (name, first) else 0,
            device=placed_on(runner),
            shares_with=None if first == name else first,
        )
        for name, runner, first, server in zip(names, runners, firsts, served, strict=True)
    )


def total(rows: tuple[MemoryRow, ...]) -> int | None:
    """Bytes of all rows, shared weights and caches once; None where a runner does not report them."""
    own = [row for row in rows if row.shares_with is None]
    if any(row.weights is None or row.cache is None for row in own):
        return None
    return sum((row.weights or 0) + (row.cache or 0) for row in own)


def _weights(runner: Runner, before: Sequence[Runner]) -> int | None:
    """Bytes of weights that none of those before holds, such as an adapter's beside those of its base."""
    own = _storages(runner)
    if own is None:
        return 0 if isinstance(runner, LookupRunner) else None
    held = {key for other in before for key in _storages(other) or ()}
    return sum(size for key, size in own.items() if key not in held)


def _storages(runner: Runner) -> dict[int, int] | None:
    """Bytes of each storage that its weights stand in; None for a runner that does not report them."""
    return runner.storages if isinstance(runner, LlamaCppRunner) else storages(runner)


def _cache(runner: Runner) -> int | None:
    server = server_of(runner)
    if isinstance(server, HfRunner | LlamaCppRunner):
        return server.cache_bytes
    return 0 if isinstance(runner, LookupRunner) else None

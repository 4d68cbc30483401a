"""The most memory that was held since it was last forgotten: by the process, and on CUDA devices by its tensors."""

import resource
from contextlib import suppress
from pathlib import Path

import torch

_OWN = Path("/proc/self")
# Written to `clear_refs`, it makes what is held now the peak (Linux: Documentation/filesystems/proc.rst).
_FORGET_PEAK = "5"


def forget() -> None:
    """What is held now is the most so far. Where a system cannot forget, a peak is that of the process so far."""
    with suppress(OSError):
        (_OWN / "clear_refs").write_text(_FORGET_PEAK)
    for device in range(torch.cuda.device_count()):
        torch.cuda.reset_peak_memory_stats(device)


def note(most: dict[str, int]) -> None:
    """Keep in `most`, bytes by where they are held, what was more than it says."""
    on_cuda = sum(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count()))
    for where, held in (("process", process()), ("cuda", on_cuda)):
        if held > most.get(where, 0):
            most[where] = held


def process() -> int:
    """Bytes that the process held at most."""
    try:
        lines = (_OWN / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

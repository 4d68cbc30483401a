"""Energy in joules, where the machine measures it: processor packages by RAPL (Linux's powercap), and NVIDIA GPUs."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True, kw_only=True)
class Counter:
    """A counter that only grows, except that it wraps around at `range`. source: rapl or nvml. joules: reads it."""

    source: str
    joules: Callable[[], float]
    range: float = 0.0


@dataclass(frozen=True)
class Meter:
    """All counters of this machine. source: their kinds; None where there is no counter."""

    counters: Sequence[Counter]

    @property
    def source(self) -> str | None:
        return ", ".join(dict.fromkeys(counter.source for counter in self.counters)) or None

    def read(self) -> list[float]:
        return [counter.joules() for counter in self.counters]

    def since(self, start: list[float]) -> float | None:
        """Joules since that reading; None where there is no counter."""
        if not self.counters:
            return None
        return sum(
            now - before + (counter.range if now < before else 0.0)
            for counter, before, now in zip(self.counters, start, self.read(), strict=True)
        )


def find_meter(powercap: Path = POWERCAP) -> Meter:
    """All counters that this machine has and lets us read."""
    return Meter([*_packages(powercap), *_gpus()])


def _packages(powercap: Path) -> list[Counter]:
    """Processor packages. Reading their counters may take an administrator's rights."""
    packages = []
    for folder in filter(_is_package, sorted(powercap.glob("*-rapl:*"))):
        joules = partial(_microjoules, folder / "energy_uj")
        with suppress(OSError, ValueError):
            joules()
            packages.append(Counter(source="rapl", joules=joules, range=_microjoules(folder / "max_energy_range_uj")))
    return packages


def _is_package(folder: Path) -> bool:
    """Not a part of a package, and not the platform, which counts its packages once more."""
    try:
        name = (folder / "name").read_text(encoding="ascii").strip()
    except OSError:
        name = ""
    return folder.name.count(":") == 1 and name != "psys"


def _microjoules(path: Path) -> float:
    """The file's number of microjoules, in joules."""
    return int(path.read_text(encoding="ascii")) / 1e6


def _gpus() -> list[Counter]:
    """NVIDIA GPUs that torch sees, where NVIDIA's library is installed and can read all of them."""
    if not torch.cuda.is_available():
        return []
    try:
        import pynvml as library  # an extra that only machines with a GPU need

        library.nvmlInit()
        uuids = [f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in range(torch.cuda.device_count())]
        handles = [library.nvmlDeviceGetHandleByUUID(uuid.encode()) for uuid in uuids]

        def joules(handle: object) -> float:
            return float(library.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3

        gpus = [Counter(source="nvml", joules=partial(joules, handle)) for handle in handles]
        Meter(gpus).read()
    except Exception:  # many ways to fail, all of which mean that energy is not measured
        return []
    return gpus

"""Energy in joules, where the machine measures it: processor packages by RAPL (Linux's powercap), and NVIDIA GPUs."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

POWERCAP = Path("/sys/class/powercap")


class Counter(Protocol):
    """A counter of joules that only grows, except that it wraps around at `range` where that is not None."""

    @property
    def source(self) -> str: ...

    @property
    def range(self) -> float | None: ...

    def joules(self) -> float: ...


@dataclass(frozen=True)
class Rapl:
    """A processor package. Reading its counter may take an administrator's rights."""

    folder: Path
    source = "rapl"

    @property
    def range(self) -> float | None:
        return _microjoules(self.folder / "max_energy_range_uj")

    def joules(self) -> float:
        return _microjoules(self.folder / "energy_uj")


@dataclass(frozen=True)
class Nvml:
    """An NVIDIA GPU."""

    library: Any
    handle: Any
    source = "nvml"
    range = None

    def joules(self) -> float:
        return float(self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1e3


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
            now - before + (counter.range or 0.0 if now < before else 0.0)
            for counter, before, now in zip(self.counters, start, self.read(), strict=True)
        )


def find_meter(powercap: Path = POWERCAP) -> Meter:
    """All counters that this machine has and lets us read."""
    return Meter([*_packages(powercap), *_gpus()])


def _packages(powercap: Path) -> list[Rapl]:
    packages = []
    for folder in filter(_is_package, sorted(powercap.glob("*-rapl:*"))):
        with suppress(OSError, ValueError):
            _microjoules(folder / "energy_uj")
            packages.append(Rapl(folder))
    return packages


def _is_package(folder: Path) -> bool:
    """Not a part of a package, and not the platform, which counts its packages once more."""
    try:
        name = (folder / "name").read_text(encoding="ascii").strip()
    except OSError:
        name = ""
    return folder.name.count(":") == 1 and name != "psys"


def _microjoules(path: Path) -> float:
    return int(path.read_text(encoding="ascii")) / 1e6


def _gpus() -> list[Nvml]:
    """Those that torch sees, where NVIDIA's library is installed and can read all of them."""
    if not torch.cuda.is_available():
        return []
    try:
        import pynvml as library  # an extra that only machines with a GPU need

        library.nvmlInit()
        uuids = [f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in range(torch.cuda.device_count())]
        gpus = [Nvml(library, library.nvmlDeviceGetHandleByUUID(uuid.encode())) for uuid in uuids]
        for gpu in gpus:
            gpu.joules()
    except Exception:  # many ways to fail, all of which mean that energy is not measured
        return []
    return gpus

"""Joules, where the machine counts them: RAPL's packages under Linux's powercap, and NVIDIA's cards."""

from collections.abc import Sequence as Values
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

POWERCAP = Path("/sys/class/powercap")


class Counter(Protocol):
    """A counter of joules that only grows, but for its wrapping at `range`, if it has one."""

    @property
    def source(self) -> str: ...

    @property
    def range(self) -> float | None: ...

    def joules(self) -> float: ...


@dataclass(frozen=True)
class Rapl:
    """A processor package. Reading it may need a right that only an administrator has."""

    folder: Path
    source = "rapl"

    @property
    def range(self) -> float | None:
        return _microjoules(self.folder / "max_energy_range_uj")

    def joules(self) -> float:
        return _microjoules(self.folder / "energy_uj")


@dataclass(frozen=True)
class Nvml:
    """An NVIDIA card."""

    library: Any
    handle: Any
    source = "nvml"
    range = None

    def joules(self) -> float:
        return float(self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1e3


@dataclass(frozen=True)
class Meter:
    """All counters together. `source` is None where there is none."""

    counters: Values[Counter]

    @property
    def source(self) -> str | None:
        return ", ".join(dict.fromkeys(counter.source for counter in self.counters)) or None

    def read(self) -> list[float]:
        return [counter.joules() for counter in self.counters]

    def since(self, start: list[float]) -> float | None:
        """Joules since that reading; None where nothing counts them."""
        if not self.counters:
            return None
        return sum(map(_grown, self.counters, start, self.read()))


def find_meter(powercap: Path = POWERCAP) -> Meter:
    """Whatever this machine counts and lets us read."""
    return Meter([*_packages(powercap), *_cards()])


def _grown(counter: Counter, before: float, after: float) -> float:
    return after - before + (counter.range or 0.0) if after < before else after - before


def _packages(powercap: Path) -> list[Rapl]:
    # Those with a second colon are parts of a package.
    folders = [path for path in sorted(powercap.glob("*-rapl:*")) if path.name.count(":") == 1]
    return [Rapl(folder) for folder in folders if _is_package(folder) and _is_readable(folder / "energy_uj")]


def _is_package(folder: Path) -> bool:
    """Not the platform as a whole, which counts the packages once more."""
    try:
        return (folder / "name").read_text(encoding="ascii").strip() != "psys"
    except OSError:
        return True


def _is_readable(path: Path) -> bool:
    try:
        _microjoules(path)
    except (OSError, ValueError):
        return False
    return True


def _microjoules(path: Path) -> float:
    return int(path.read_text(encoding="ascii")) / 1e6


def _cards() -> list[Nvml]:
    """Those that torch sees, if NVIDIA's library is there to ask."""
    if not torch.cuda.is_available():
        return []
    try:
        import pynvml as library  # an extra that only machines with a card need

        library.nvmlInit()
        uuids = [f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in range(torch.cuda.device_count())]
        cards = [Nvml(library, library.nvmlDeviceGetHandleByUUID(uuid.encode())) for uuid in uuids]
        for card in cards:
            card.joules()
    except Exception:  # a card may not count, and then is not counted
        return []
    return cards

"""The machine that speeds are measured on."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

# Names the folder of what is kept of measurements; `off`: nothing is kept at all.
CACHE, OFF = "COSPEC_CACHE", "off"


def cache_folder() -> Path | None:
    """Where measurements that belong to no file are kept; None where nothing is to be kept."""
    given = os.environ.get(CACHE)
    if given:
        return None if given == OFF else Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cospec"


def described() -> dict[str, Any]:
    """What of the machine speeds depend on."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "accelerators": [*accelerators()],
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The processor's model, where Linux reports it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next((line for line in lines if line.startswith("model name")), "")
    except OSError:
        model = ""
    return model.partition(":")[2].strip() or platform.processor() or platform.machine()


def accelerators() -> tuple[str, ...]:
    """The names of CUDA devices."""
    return tuple(map(torch.cuda.get_device_name, range(torch.cuda.device_count() if torch.cuda.is_available() else 0)))

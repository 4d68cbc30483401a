"""The machine and the ensemble that a pilot runs on, for its results and to hold earlier measurements against."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from .. import __version__
from ..ensemble import Ensemble
from ..members import Member, written
from ..runner.fingerprint import fingerprint
from .ledger import Ledger
from .memory import device
from .results import Environment


def environment(ledger: Ledger, ensemble: Ensemble) -> Environment:
    """This machine, and when and how long it measured."""
    runners = dict(zip(ensemble.names, ensemble.runners, strict=True))
    return Environment(
        versions={
            "cospec": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": version("transformers"),
        },
        platform=platform.platform(),
        processor=_processor(),
        num_cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        devices={name: device(runner) for name, runner in runners.items()},
        dtypes={name: str(runner.dtype).removeprefix("torch.") for name, runner in runners.items()},
        accelerators=_accelerators(),
        memory=psutil.virtual_memory().total,
        started=ledger.started,
        seconds=ledger.seconds,
    )


def machine(threads: int | None = None) -> dict[str, Any]:
    """What measured speeds depend on beside the ensemble. threads: of the CPU, None for as many as torch has."""
    return {
        "version": __version__,
        "machine": {
            "processor": _processor(),
            "accelerators": [*_accelerators()],
            "threads": threads or torch.get_num_threads(),
        },
    }


def binding(ensemble: Ensemble) -> Mapping[str, object]:
    """What of machine and ensemble earlier measurements must agree in: models, their options, target and plan."""
    return {
        "version": __version__,
        "members": [*ensemble.member_names],
        "drafters": [*ensemble.drafter_names],
        "sources": {
            name: {
                "model": written(member),
                "files": _files(member),
                "prompt": repr(member.prompt),
                **({} if member.system is None else {"system": member.system}),
                **_exact(vars(member.options)),
            }
            for name, member in zip(ensemble.names, ensemble.sources, strict=True)
        },
        "combination": {"type": ensemble.combination.name, **_exact(vars(ensemble.combination))},
        **({"end_tokens": repr(ensemble.end_tokens)} if ensemble.end_tokens else {}),
        "plan": str(ensemble.plan),
        "verification": ensemble.plan.verification,
        "processor": _processor(),
        "accelerators": [*_accelerators()],
        "threads": torch.get_num_threads(),
        "devices": [device(runner) for runner in ensemble.runners],
        "dtypes": [str(runner.dtype) for runner in ensemble.runners],
    }


def _files(member: Member) -> str | None:
    is_named = isinstance(member.model, str | Path)
    return fingerprint(str(member.model), member.options) if is_named else None


def _exact(settings: Mapping[str, object]) -> dict[str, str]:
    """Values as Python writes them, in which a float has all of its digits."""
    return {key: repr(value) for key, value in settings.items()}


def _processor() -> str:
    """The processor's model, where Linux reports it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next((line for line in lines if line.startswith("model name")), "")
    except OSError:
        model = ""
    return model.partition(":")[2].strip() or platform.processor() or platform.machine()


def _accelerators() -> tuple[str, ...]:
    return tuple(map(torch.cuda.get_device_name, range(torch.cuda.device_count() if torch.cuda.is_available() else 0)))

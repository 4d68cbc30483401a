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
from ..core.combine import settings_of
from ..ensemble import Ensemble
from ..machine import accelerators, processor
from ..members import Member, written
from ..runner.fingerprint import fingerprint
from ..runner.protocol import placed_on
from .ledger import Ledger
from .results import Environment
from .steadiness import steadiness


def environment(ledger: Ledger, ensemble: Ensemble) -> Environment:
    """This machine, and when and how long it measured."""
    runners = dict(zip(ensemble.names, ensemble.runners, strict=True))
    steady = steadiness(ledger.measurements)
    return Environment(
        versions={
            "cospec": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": version("transformers"),
        },
        platform=platform.platform(),
        processor=processor(),
        num_cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        devices={name: placed_on(runner) for name, runner in runners.items()},
        dtypes={name: str(runner.dtype).removeprefix("torch.") for name, runner in runners.items()},
        accelerators=accelerators(),
        memory=psutil.virtual_memory().total,
        started=ledger.started,
        seconds=ledger.seconds,
        spread=steady.spread,
        held_up=steady.held_up,
        load=steady.load,
    )


def machine(threads: int | None = None) -> dict[str, Any]:
    """What measured speeds depend on beside the ensemble. threads: of the CPU, None for as many as torch has."""
    return {
        "version": __version__,
        "machine": {
            "processor": processor(),
            "accelerators": [*accelerators()],
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
        "combination": {"type": ensemble.combination.name, **_exact(settings_of(ensemble.combination))},
        **({"end_tokens": repr(ensemble.end_tokens)} if ensemble.end_tokens else {}),
        "plan": str(ensemble.plan),
        "verification": ensemble.plan.verification,
        "processor": processor(),
        "accelerators": [*accelerators()],
        "threads": torch.get_num_threads(),
        "devices": [placed_on(runner) for runner in ensemble.runners],
        "dtypes": [str(runner.dtype) for runner in ensemble.runners],
    }


def _files(member: Member) -> str | None:
    is_named = isinstance(member.model, str | Path)
    return fingerprint(str(member.model), member.options) if is_named else None


def _exact(settings: Mapping[str, object]) -> dict[str, str]:
    """Values as Python writes them, in which a float has all of its digits."""
    return {key: repr(value) for key, value in settings.items()}

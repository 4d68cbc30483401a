"""What `auto` measured, kept for later processes: beside the ensemble's file, or in a cache folder.

A file belongs to one ensemble on one machine, and says so itself. What stands there and does not is as good as nothing;
so is what cannot be read or written, since it is a first belief alone, which is measured again.
"""

import json
import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .machine import cache_folder, described
from .resume import digest, plain
from .schedule.auto import Auto
from .storage import to_json

logger = logging.getLogger(__name__)

FORMAT = 3
# Ways of sampling that are kept; those that were used last stay. Seconds between two writes of one process.
MOST_KEPT, SECONDS_BETWEEN = 16, 10.0
# What of an ensemble's identity changes neither costs nor acceptances.
_OF_PLANS = ("schedule", "gamma", "first", "proposer", "verification", "end_tokens")


@dataclass(frozen=True)
class MeasurementFile:
    """One ensemble's measurements on one machine. binding: what they depend on, in JSON's types."""

    path: Path
    binding: Mapping[str, Any]

    @classmethod
    def of(
        cls, identity: Mapping[str, Any], dtypes: Sequence[torch.dtype], beside: Path | None
    ) -> "MeasurementFile | None":
        """That of the ensemble of this identity, as its lanes compute; None where nothing is to be kept.

        beside: the ensemble's file; None for one without, or one that lies in the package.
        """
        folder = cache_folder()
        if folder is None:
            return None
        binding = plain(
            {
                "format": FORMAT,
                "versions": {"cospec": version("cospec"), "torch": torch.__version__},
                "ensemble": {key: value for key, value in identity.items() if key not in _OF_PLANS},
                "dtypes": [str(dtype) for dtype in dtypes],
                "machine": described(),
            }
        )
        own = digest(binding).partition(":")[2]
        if beside is not None and os.access(beside.parent, os.W_OK):
            return cls(beside.with_name(f"{beside.name}.measured-{own}.json"), binding)
        return cls(folder / "measured" / f"{own}.json", binding)

    def read(self) -> Mapping[str, Any]:
        """What is kept: `costs` and `planners`; neither where there is nothing of this ensemble and machine."""
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        is_own = isinstance(kept, dict) and kept.get("binding") == self.binding
        is_whole = is_own and isinstance(kept.get("costs"), list) and isinstance(kept.get("planners"), dict)
        return kept if is_whole else {}

    def write(self, costs: Sequence[Any], planners: Mapping[str, Any]) -> None:
        """Whole or not at all: of several processes that write at once, one's is kept."""
        text = to_json({"binding": self.binding, "costs": costs, "planners": planners})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            number, beside = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
            try:
                with os.fdopen(number, "w", encoding="utf-8") as opened:
                    opened.write(text)
                os.replace(beside, self.path)
            except OSError:
                with suppress(OSError):
                    os.unlink(beside)
                raise
        except OSError as error:
            logger.info("what auto measured is not kept: %s: %s", self.path, error.strerror or error)


class KeptMeasurements:
    """What planners begin with, and what they leave behind.

    file: None where nothing is kept. costs: of forward passes, as `Costs.state` gives them; empty where none were
    measured yet.
    """

    def __init__(self, file: MeasurementFile | None) -> None:
        kept = file.read() if file else {}
        self.file = file
        self.costs: Sequence[Any] = kept.get("costs", ())
        self._planners: dict[str, Any] = dict(kept.get("planners", {}))
        self._live: dict[str, Auto] = {}
        self._written = -SECONDS_BETWEEN

    def of_costs(self) -> "KeptMeasurements":
        """The costs alone, for another target, of which nothing is kept."""
        other = KeptMeasurements(None)
        other.costs = self.costs
        return other

    def begin(self, planner: Auto, sampling: str) -> bool:
        """Let a new planner begin with what was learned under this way of sampling, or with costs alone. Whether it
        can be used: one that was given what no planner leaves behind must be made anew."""
        self._live[sampling] = planner
        state = self._planners.get(sampling)
        try:
            if state is not None:
                planner.begin_with(state)
            elif self.costs:
                planner.begin_with_costs(self.costs)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
            self._planners.pop(sampling, None)
            self.costs = () if state is None else self.costs
            return False
        return True

    def save_soon(self) -> None:
        """Write, unless that was done a moment ago."""
        if time.monotonic() - self._written >= SECONDS_BETWEEN:
            self.save()

    def save_at_the_end(self) -> None:
        """Write, as the ensemble or the process ends."""
        # A thread may be decoding still, and change what is written: what was written before is there.
        with suppress(RuntimeError):
            self.save()

    def save(self) -> None:
        """Write what is known by now."""
        learned = {name: planner for name, planner in self._live.items() if planner.chosen}
        if self.file is None or not (learned or self.costs):
            return
        self._written = time.monotonic()
        for name, planner in learned.items():
            self._planners.pop(name, None)
            self._planners[name] = planner.state()
        for name in [*self._planners][:-MOST_KEPT]:
            del self._planners[name]
        latest = [planner.beliefs.costs.state() for planner in learned.values()]
        self.file.write(latest[-1] if latest else self.costs, self._planners)

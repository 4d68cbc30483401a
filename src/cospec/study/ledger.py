"""The ledger: everything that a study has measured so far, kept in a file from which it resumes."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..core.counts import Counts
from ..errors import CospecError, InvalidPilot
from ..resume import check_settings, plain
from ..storage import keep
from .results import CheckRow, Measurement

# The entry of the settings that only scores and log-probabilities depend on.
SCORING = "scoring"


@dataclass(frozen=True, kw_only=True)
class TextLogprob:
    """The sum of the log-probabilities of a reference text's tokens, and the number of these tokens."""

    total: float
    num_tokens: int


@dataclass(kw_only=True)
class Ledger:
    """Measurements under names that go to JSON and back. Prompts are written as their indices.

    settings: what measurements must agree in to be paired; SCORING only for scores and log-probabilities.
    counts: at(method, concurrency) -> what its measured sequences cost, summed. theory: the same -> predicted speed
    over plain. peaks: the same -> `process` or `cuda` -> the most bytes held while it ran, all loaded models included.
    plans: concurrency -> the plan that `auto` chose. checks: number -> a line of the self-test. scores: method ->
    prompt -> score. logprobs: method -> prompt -> its reference text's. caches: member or drafter -> the most bytes of
    its keys and values. peak_memory: the most bytes of the process. seconds: spent measuring, over all runs of the
    study. started: when the first of them began.
    """

    settings: dict[str, Any]
    measurements: list[Measurement] = field(default_factory=list)
    counts: dict[str, Counts] = field(default_factory=dict)
    theory: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, dict[str, int]] = field(default_factory=dict)
    plans: dict[str, str] = field(default_factory=dict)
    checks: dict[str, CheckRow] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    logprobs: dict[str, dict[str, TextLogprob]] = field(default_factory=dict)
    caches: dict[str, int] = field(default_factory=dict)
    peak_memory: int = 0
    seconds: float = 0.0
    started: str = ""

    def save(self, path: Path) -> None:
        """Write it whole or not at all. Raises CospecError where it cannot be written."""
        keep(path, json.dumps(asdict(self)))

    @classmethod
    def load(
        cls,
        path: Path,
        settings: Mapping[str, Any],
        *,
        content: str = "measurements of a pilot",
        error_type: type[CospecError] = InvalidPilot,
    ) -> "Ledger":
        """The ledger that an earlier run with these settings wrote, or an empty one where there is no file.

        Where only SCORING differs, scores and log-probabilities are dropped. content: what the file should hold, for
        messages. Raises `error_type` for another file, or one of other settings.
        """
        if not path.exists():
            return cls(settings=dict(settings))
        try:
            ledger = TypeAdapter(cls).validate_json(path.read_bytes(), extra="forbid")
        except OSError as error:
            raise error_type(f"{path} cannot be read: {error.strerror or error}") from None
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            reason = f"{where}: {fault['msg']}" if where else fault["msg"]
            raise error_type(f"{path} holds no {content} ({reason}); give --out another folder") from None
        wanted = plain(settings)
        kept, now = ({**each, SCORING: None} for each in (ledger.settings, wanted))
        remedy = "Give the same settings to go on, or --out another folder"
        check_settings(f"{path}, which holds {content},", kept, now, remedy, error_type)
        if ledger.settings.get(SCORING) != wanted.get(SCORING):
            return replace(ledger, settings=wanted, scores={}, logprobs={})
        return ledger

    def is_timed(self, method: str, concurrency: int, batch: int, repeat: int) -> bool:
        """Whether this run has been measured."""
        wanted = (method, concurrency, batch, repeat)
        return any((m.method, m.concurrency, m.batch, m.repeat) == wanted for m in self.measurements)

    def runs(self, method: str, concurrency: int) -> list[Measurement]:
        """All runs of a method at a concurrency."""
        return [m for m in self.measurements if (m.method, m.concurrency) == (method, concurrency)]


def at(method: str, concurrency: int) -> str:
    """The key of a method at a concurrency."""
    return f"{method} @ {concurrency}"

"""What was measured so far, kept as it comes, so that a study that was interrupted goes on."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import CospecError, InvalidPilot
from ..inputs import validated
from ..storage import keep
from .results import CheckRow, Measurement

# Among the settings, what scores and log-probabilities alone hang on.
SCORING = "scoring"


@dataclass(frozen=True, kw_only=True)
class TextLogprob:
    """Of a given text: the log-probabilities of its tokens, summed, and how many they are."""

    total: float
    num_tokens: int


@dataclass(kw_only=True)
class Ledger:
    """Everything by name, so that it goes to JSON and back. Prompts are written as their indices.

    settings: what kept measurements must agree in, SCORING in scores and log-probabilities alone. counts: at(method,
    concurrency) -> what its texts cost, summed. theory: the same -> speed over plain that the formulas give. plans:
    concurrency -> what auto settled on. scores: method -> prompt -> score. logprobs: method -> prompt -> its given
    text's. caches: member or drafter -> the most bytes of its keys and values. peak_memory: the most bytes of the
    process. seconds: spent measuring, in all runs together. started: of the first run.
    """

    settings: dict[str, Any]
    measurements: list[Measurement] = field(default_factory=list)
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    theory: dict[str, float] = field(default_factory=dict)
    plans: dict[str, str] = field(default_factory=dict)
    checks: dict[str, CheckRow] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    logprobs: dict[str, dict[str, TextLogprob]] = field(default_factory=dict)
    caches: dict[str, int] = field(default_factory=dict)
    peak_memory: int = 0
    seconds: float = 0.0
    started: str = ""

    def save(self, path: Path) -> None:
        """Whole or not at all. Raises CospecError where it cannot be written."""
        keep(path, json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path, settings: Mapping[str, Any]) -> "Ledger":
        """What an earlier run with these settings kept, or an empty one. Raises InvalidPilot for another study's.

        Where SCORING alone differs, texts are scored anew and timings stay.
        """
        if not path.exists():
            return cls(settings=dict(settings))
        try:
            kept = validated(cls, json.loads(path.read_text(encoding="utf-8")), str(path), InvalidPilot)
        except (OSError, ValueError, CospecError) as error:
            raise InvalidPilot(
                f"{path} holds no measurements of a pilot ({error}); give --out another folder"
            ) from None
        wanted = json.loads(json.dumps(settings))
        differing = [key for key in wanted if key != SCORING and kept.settings.get(key) != wanted[key]]
        if differing:
            raise InvalidPilot(
                f"{path} was measured with other settings ({', '.join(differing)}); give --out another folder, or "
                "remove it to measure anew"
            )
        if kept.settings.get(SCORING) != wanted.get(SCORING):
            return replace(kept, settings=wanted, scores={}, logprobs={})
        return kept

    def is_timed(self, method: str, concurrency: int, batch: int, repeat: int) -> bool:
        wanted = (method, concurrency, batch, repeat)
        return any((m.method, m.concurrency, m.batch, m.repeat) == wanted for m in self.measurements)


def at(method: str, concurrency: int) -> str:
    """The key of a method at a concurrency."""
    return f"{method} @ {concurrency}"

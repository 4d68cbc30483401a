"""What a study is asked to do."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .criteria import Criteria
from .prices import Prices
from .questions import Question


@dataclass(frozen=True, kw_only=True)
class Asked:
    """See Settings in `results`, where all of it ends up. num_prompts: timed ones, of all; the others are scored only.

    score: for prompts that do not say how. stop: strings that end a scored text. criteria_source, prices_source: the
    files, None for the defaults. source: the ensemble's file or name; None where members were given one by one.
    """

    source: str | None
    ours: str
    questions: list[Question]
    prompts_source: str
    num_prompts: int
    tokens: int
    temperature: float
    repeats: int
    concurrencies: tuple[int, ...]
    score: str
    score_temperature: float
    score_tokens: int
    stop: tuple[str, ...]
    criteria: Criteria
    criteria_source: Path | None
    prices: Prices
    prices_source: Path | None
    command: str

    def binding(self, machine: Mapping[str, Any]) -> dict[str, Any]:
        """What kept measurements must agree in. Concurrencies, criteria and prices may change: they change no run."""
        own = ("source", "ours", "num_prompts", "tokens", "temperature", "repeats")
        scoring = ("score", "score_temperature", "score_tokens", "stop")
        prompts = [asdict(question) for question in self.questions]
        return {**{key: getattr(self, key) for key in own + scoring}, "prompts": prompts, **machine}

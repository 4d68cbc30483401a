"""What a study is asked to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .criteria import Criteria
from .ledger import SCORING
from .prices import Prices
from .questions import TEXTS, Question


@dataclass(frozen=True, kw_only=True)
class Asked:
    """See Settings in `results`, where all of it ends up. num_prompts: timed ones, of all; the others are scored only.

    source: the ensemble's file or name; None where members were given one by one. texts: perplexity is measured on
    these too, beside the prompts' references. stop: strings that end a scored text. criteria_source, prices_source: the
    files, None for the defaults.
    """

    source: str | None
    ours: str
    questions: list[Question]
    prompts_source: str
    texts: tuple[str, ...]
    texts_source: Path | None
    num_prompts: int
    tokens: int
    temperature: float
    repeats: int
    concurrencies: tuple[int, ...]
    score_temperature: float
    score_tokens: int
    stop: tuple[str, ...]
    criteria: Criteria
    criteria_source: Path | None
    prices: Prices
    prices_source: Path | None
    command: str

    def given_texts(self) -> dict[str, tuple[str, str]]:
        """What perplexity is measured on, by its key in the ledger: what stands before it, and the text."""
        found = {str(i): (q.prompt, q.continuation) for i, q in enumerate(self.questions) if q.continuation}
        return found | {str(len(self.questions) + i): ("", text) for i, text in enumerate(self.texts)}

    def category(self, key: str) -> str:
        """Of a prompt or text, by its key in the ledger."""
        return self.questions[int(key)].category if int(key) < len(self.questions) else TEXTS

    def binding(self, machine: Mapping[str, Any]) -> dict[str, Any]:
        """What kept measurements must agree in. Concurrencies, criteria and prices may change: they change no run."""
        own = ("source", "ours", "num_prompts", "tokens", "temperature", "repeats")
        prompts = [[question.prompt, question.category] for question in self.questions]
        return {**{key: getattr(self, key) for key in own}, "prompts": prompts, SCORING: self._scoring(), **machine}

    def _scoring(self) -> dict[str, Any]:
        """What scores and perplexities alone hang on."""
        own = ("score_temperature", "score_tokens", "stop", "texts")
        answers = [[question.reference, question.score, question.text] for question in self.questions]
        return {**{key: getattr(self, key) for key in own}, "answers": answers}

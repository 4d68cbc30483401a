"""The settings of a pilot: what it is to measure, and what its file of measurements is held against."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..errors import CospecError, InvalidPilot, InvalidPrompt
from ..prompts import Chat, as_json
from ..resume import digest
from .ledger import SCORING
from .perplexity import answer_tokens
from .questions import TEXTS, Question
from .results import Design


@dataclass(frozen=True, kw_only=True)
class PilotSettings(Design):
    """What a pilot is to measure; its design is that of the results.

    source: the ensemble's file or name; None where members were given one by one. num_prompts: how many of the
    questions are timed; all are scored. texts: perplexity is measured on these too, beside the prompts' references.
    stop: strings that end a scored sequence. criteria_source, prices_source: the files, None for the defaults.
    """

    source: str | None
    questions: list[Question]
    texts: tuple[str, ...]
    texts_source: Path | None
    num_prompts: int
    stop: tuple[str, ...]
    criteria_source: Path | None
    prices_source: Path | None

    def reference_texts(self) -> dict[str, tuple[str | Chat, str]]:
        """Key in the ledger -> a prompt, and the text after it whose perplexity is measured."""
        found: dict[str, tuple[str | Chat, str]] = {
            str(i): (q.prompt, q.continuation) for i, q in enumerate(self.questions) if q.continuation
        }
        return found | {str(len(self.questions) + i): ("", text) for i, text in enumerate(self.texts)}

    def category(self, key: str) -> str:
        """Of a prompt or text, by its key in the ledger."""
        return self.questions[int(key)].category if int(key) < len(self.questions) else TEXTS

    def binding(self, machine: Mapping[str, Any]) -> dict[str, Any]:
        """What earlier measurements must agree in, beside what `machine` says of ensemble and machine.

        Concurrencies, criteria and prices may change from run to run: they change no measurement.
        """
        own = ("source", "ours", "num_prompts", "tokens", "temperature", "repeats")
        # A text stands for itself in messages; of a chat it is enough that it has changed.
        texts = [q.prompt if isinstance(q.prompt, str) else digest(as_json(q.prompt)) for q in self.questions]
        prompts = [[text, question.category] for text, question in zip(texts, self.questions, strict=True)]
        scored = ("score_temperature", "score_tokens", "stop", "texts")
        answers = [[question.reference, question.score, question.text] for question in self.questions]
        return {
            **{key: getattr(self, key) for key in own},
            "prompts": prompts,
            SCORING: {**{key: getattr(self, key) for key in scored}, "answers": answers},
            **machine,
        }


def check_prompts(ensemble: Ensemble, questions: Sequence[Question], texts: Mapping[str, str]) -> None:
    """Raises InvalidPrompt, with file and line, for a prompt that with its reference exceeds a member's context.

    texts: by their place.
    """
    for question in questions:
        what = ", with its continuation" if question.continuation else ""
        _check_prompt(ensemble, question.prompt, question.continuation or "", f"{question.where}{what}")
    for where, text in texts.items():
        _check_prompt(ensemble, text, "", where)


def _check_prompt(ensemble: Ensemble, prompt: str | Chat, text: str, where: str) -> None:
    engine, params = ensemble.engine(), SamplingParams()
    try:
        if isinstance(prompt, Chat):
            request = ensemble.request(prompt, params)
            more = answer_tokens(ensemble.tokenizer, text) if ensemble.tokenizer else ()
            longer = [(*own, *more) for own in request.lane_prompts]
            engine.check(replace(request, prompt=longer[0], lane_prompts=longer))
        else:
            engine.check(ensemble.request(prompt + text, params))
    except CospecError as error:
        raise InvalidPrompt(f"{where}: {error}") from None


def check_concurrencies(ensemble: Ensemble, concurrencies: Sequence[int]) -> None:
    """Raises InvalidPilot for more sequences at once than the ensemble takes."""
    most = max(concurrencies)
    if most > ensemble.max_sequences:
        raise InvalidPilot(
            f"{most} concurrent sequences, of --concurrency or the criteria's planned_concurrency, are more than the "
            f"ensemble's max_sequences, {ensemble.max_sequences}; give --max-sequences {most}, or put "
            f"`max_sequences: {most}` into its file"
        )

"""What the ensemble answers to prompts, with r's most probable tokens at each position: a row a prompt, in a file."""

from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.events import Result
from ..ensemble import Ensemble, Prompt
from ..errors import InvalidDistillation, InvalidPrompt
from ..resume import SETTINGS, KeptRows, RowFile, Settings, Wanted, read_rows
from .recipe import TextRecipe

NUMBER, SAMPLES = "number", "samples"


@dataclass(frozen=True, kw_only=True)
class WrittenText:
    """One answer of the ensemble's.

    prompt: what the drafter reads before it, in token ids. tokens: the answer's. kept: [len(tokens), NUM_KEPT], the
    ids that were the most probable under r before each of them. probs: the same shape, their probabilities. hidden:
    [len(tokens), members, size], the members' hidden states before each; None where no head is trained.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    kept: Tensor
    probs: Tensor
    hidden: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A text with what each member reads before it, in token ids. is_held_out: whether it is not trained on."""

    text: WrittenText
    lane_prompts: Sequence[tuple[int, ...]]
    is_held_out: bool


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """The rows that a run is to have, and the file in which they are kept.

    prompts, wanted: by number. Rows of other prompts or settings are refused as they are read.
    """

    path: Path
    prompts: Mapping[int, Prompt]
    wanted: Mapping[int, Wanted]

    def read(self) -> KeptRows:
        """Raises CospecError for rows of other settings."""
        return read_rows(self.path, NUMBER, self.wanted, f"row of texts for these {len(self.wanted)} prompts")

    def write(
        self,
        ensemble: Ensemble,
        recipe: TextRecipe,
        should_stop: Callable[[], bool],
        on_text: Callable[[], None],
    ) -> None:
        """Let the ensemble answer the prompts that have no row. Raises InvalidPrompt with the place of a prompt that
        cannot be decoded, and InvalidDistillation where an answer fails; whole rows stay."""
        kept = self.read()
        numbers = [number for number in self.prompts if number not in kept.rows]
        with RowFile(self.path, kept) as file:
            for number, results in self._answers(ensemble, recipe, numbers, should_stop, on_text):
                samples = [_packed(result) for result in results]
                file.append({NUMBER: number, SAMPLES: samples, SETTINGS: self.wanted[number].settings})

    def _answers(
        self,
        ensemble: Ensemble,
        recipe: TextRecipe,
        numbers: Sequence[int],
        should_stop: Callable[[], bool],
        on_text: Callable[[], None],
    ) -> Iterator[tuple[int, list[Result]]]:
        """All samples of a prompt, once the last one is finished."""
        asked = [(number, params) for number in numbers for params in recipe.params(number)]
        prompts, all_params = [self.prompts[number] for number, _ in asked], [params for _, params in asked]
        # Of each prompt its results, by the request and the sample.
        done: dict[int, dict[tuple[int, int], Result]] = defaultdict(dict)
        try:
            for event in ensemble.stream(prompts, all_params, should_stop=should_stop) if prompts else ():
                if event.result is None or event.result.finish_reason == "abort":
                    continue
                number, result = asked[event.prompt_index][0], event.result
                done[number][event.prompt_index, result.index] = _checked(result, self.wanted[number].place)
                on_text()
                if len(done[number]) == recipe.samples:
                    yield number, [result for _, result in sorted(done.pop(number).items(), key=itemgetter(0))]
        except InvalidPrompt as error:
            where = "" if error.prompt_index is None else f"{self.wanted[asked[error.prompt_index][0]].place}: "
            raise InvalidPrompt(f"{where}{error}") from None


def texts_of(row: Settings, prompt: Sequence[int]) -> list[WrittenText]:
    """The samples of one prompt. prompt: what the drafter is given for it."""
    return [_unpacked(sample, tuple(prompt)) for sample in row[SAMPLES]]


def _checked(result: Result, place: str) -> Result:
    if result.error is not None:
        raise InvalidDistillation(
            f"{place}: the ensemble cannot answer ({result.error}); mend it, and run the same command to go on"
        )
    return result


def _packed(result: Result) -> dict[str, Any]:
    tops = [entry.top for entry in result.logprobs or []]
    kept = np.array([[token for token, _ in top] for top in tops], dtype=np.int32)
    logprobs = np.array([[logprob for _, logprob in top] for top in tops], dtype=np.float16)
    return {"token_ids": result.token_ids, "kept": _as_text(kept), "logprobs": _as_text(logprobs)}


def _unpacked(sample: Mapping[str, Any], prompt: tuple[int, ...]) -> WrittenText:
    tokens = tuple(sample["token_ids"])
    shape = (len(tokens), -1)
    kept = np.frombuffer(b64decode(sample["kept"]), np.int32).reshape(shape)
    logprobs = np.frombuffer(b64decode(sample["logprobs"]), np.float16).reshape(shape)
    return WrittenText(
        prompt=prompt,
        tokens=tokens,
        kept=torch.from_numpy(kept.astype(np.int64)),
        probs=torch.from_numpy(logprobs.astype(np.float32)).exp(),
    )


def _as_text(array: "np.ndarray[Any, Any]") -> str:
    return b64encode(array.tobytes()).decode()

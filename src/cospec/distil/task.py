"""What is to be distilled: prompts, recipes, and where it is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import InvalidDistillation
from ..prompts import Chat, as_json
from ..resume import Wanted, digest
from .outcome import TEXTS, WORK, RunRecord
from .recipe import HELD_OUT, Recipe, TextRecipe
from .texts import TextFile


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What is to be done.

    prompts: with their places, for messages. base: the member whose first layers or embedding are taken; None for the
    first.
    identity: the ensemble's. command: for the card.

    Raises InvalidDistillation for prompts of which none can be held out.
    """

    prompts: Sequence[str | list[int] | Chat]
    places: Sequence[str]
    text_recipe: TextRecipe
    training_recipe: Recipe
    base: str | None
    identity: Mapping[str, Any]
    out: Path
    command: str

    def __post_init__(self) -> None:
        if len({*self._digests()}) < 2:
            raise InvalidDistillation(
                f"distilling needs at least two different prompts, since one in {HELD_OUT} is held out; give more"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """All that the drafter depends on."""
        training = self.training_recipe.settings()
        return {"prompts": digest([*self._digests()]), **self._text_settings(), **training, "base": self.base}

    def record(self) -> RunRecord:
        """What an earlier run kept in the folder. Raises InvalidDistillation for one of other settings."""
        return RunRecord.load(self.out, self.settings)

    def text_file(self) -> TextFile:
        """The rows of texts that are wanted."""
        wanted = {
            number: Wanted(place=place, settings={"prompt": key, **self._text_settings()})
            for number, (place, key) in enumerate(zip(self.places, self._digests(), strict=True))
        }
        return TextFile(path=self.out / WORK / TEXTS, prompts=dict(enumerate(self.prompts)), wanted=wanted)

    def held_out(self) -> set[int]:
        """Numbers of the prompts that are not trained on, drawn by the seed; of equal ones, all or none."""
        keys = [*self._digests()]
        distinct = [*dict.fromkeys(keys)]
        generator = torch.Generator().manual_seed(self.training_recipe.seed)
        count = max(1, len(distinct) // HELD_OUT)
        drawn = {distinct[index] for index in torch.randperm(len(distinct), generator=generator)[:count].tolist()}
        return {number for number, key in enumerate(keys) if key in drawn}

    def _digests(self) -> list[str]:
        return [digest(as_json(prompt)) for prompt in self.prompts]

    def _text_settings(self) -> dict[str, Any]:
        return {**self.text_recipe.settings(), **self.identity}

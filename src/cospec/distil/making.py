"""From an ensemble and its answers to what is trained: checked before a text is written, made once all are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from .. import demo
from ..ensemble import Ensemble
from ..errors import InvalidDistillation, UnsupportedModel
from ..members import Member, written
from ..runner.hf.adapted import AdaptedRunner
from ..runner.hf.location import locate
from ..runner.hf.runner import HfRunner
from ..runner.hf.trainable import FirstLayers, load_first_layers, name_of_whole
from ..runner.llamacpp import LlamaCppRunner
from ..runner.parts import parts_of
from ..runner.protocol import StatesRunner
from .head import HeadPupil
from .hidden import HiddenFile, members_of
from .outcome import HIDDEN, WORK
from .phases import Phases, Stopped
from .pupil import LayersPupil, Pupil
from .recipe import HeadRecipe, Recipe, TrainingRecipe
from .texts import Answer
from .vocabulary import frequent_tokens


class Making(Protocol):
    """base: the model that the drafter stands on, as its files name it."""

    @property
    def base(self) -> str: ...

    def read(self, answers: Sequence[Answer], phases: Phases) -> Sequence[Answer]:
        """The answers with all that the drafter learns from, in the same order. Raises Stopped."""
        ...

    def pupil(self, answers: Sequence[Answer]) -> Pupil:
        """What learns from these answers, untrained. Raises InvalidDistillation for a vocabulary of a size that cannot
        be."""
        ...


def making(ensemble: Ensemble, recipe: Recipe, owner: int, out: Path) -> Making:
    """owner: the number of the member whose layers or embedding are taken. Raises a CospecError for what cannot be."""
    if isinstance(recipe, HeadRecipe):
        return HeadMaking.of(ensemble, recipe, owner, out)
    assert isinstance(recipe, TrainingRecipe), "layers or a head"
    return LayersMaking.of(ensemble, recipe, owner)


@dataclass(frozen=True, kw_only=True)
class LayersMaking:
    ensemble: Ensemble
    recipe: TrainingRecipe
    layers: FirstLayers
    base: str

    @classmethod
    def of(cls, ensemble: Ensemble, recipe: TrainingRecipe, owner: int) -> "LayersMaking":
        """Raises UnsupportedModel for a member without layers, and what loading raises."""
        if not isinstance(ensemble.runners[owner], HfRunner | AdaptedRunner | LlamaCppRunner):
            raise UnsupportedModel(
                f"the member {ensemble.member_names[owner]!r} is no model that transformers reads, whose "
                "layers could be trained; name another one by --base"
            )
        member = ensemble.sources[owner]
        layers, whole = load_first_layers(str(member.model), member.options, recipe.layers, ensemble.vocab_size)
        return cls(ensemble=ensemble, recipe=recipe, layers=layers, base=written(Member(model=whole)))

    def read(self, answers: Sequence[Answer], phases: Phases) -> Sequence[Answer]:
        return answers

    def pupil(self, answers: Sequence[Answer]) -> Pupil:
        if self.recipe.vocabulary is not None:
            self.layers.cut_vocabulary(_frequent(answers, self.recipe.vocabulary, self.ensemble))
        if self.recipe.is_whole:
            self.layers.train_whole()
        else:
            self.layers.train_adapter(self.recipe.rank, self.recipe.seed, self.base)
        return LayersPupil(self.layers)


@dataclass(frozen=True, kw_only=True)
class HeadMaking:
    ensemble: Ensemble
    recipe: HeadRecipe
    members: Sequence[StatesRunner]
    runner: HfRunner
    base: str
    out: Path

    @classmethod
    def of(cls, ensemble: Ensemble, recipe: HeadRecipe, owner: int, out: Path) -> "HeadMaking":
        """Raises UnsupportedModel for members that hand out no hidden states, or none that one head could read."""
        members, source = members_of(ensemble), ensemble.sources[owner]
        runner = ensemble.runners[owner]
        whole = runner.served_by if isinstance(runner, AdaptedRunner) else runner
        if not isinstance(whole, HfRunner) or not isinstance(source.model, str | Path):
            raise UnsupportedModel(
                f"the member {ensemble.member_names[owner]!r} is no model that a file could name, whose embedding a "
                "drafting head reads; name another one by --base"
            )
        parts = parts_of(str(source.model), source.options)
        name = name_of_whole(parts, locate(demo.path_of(parts.whole), parts.options))
        base = written(Member(model=name))
        return cls(ensemble=ensemble, recipe=recipe, members=members, runner=whole, base=base, out=out)

    def read(self, answers: Sequence[Answer], phases: Phases) -> Sequence[Answer]:
        """With the members' hidden states at each token."""
        size = self.members[0].state_size
        file = HiddenFile(path=self.out / WORK / HIDDEN, answers=answers, num_members=len(self.members), size=size)
        if todo := len(answers) - file.num_done:
            with phases.bar("reading texts", todo) as advance:
                if not file.write(self.members, phases.should_stop, advance):
                    raise Stopped
        return [
            replace(answer, text=replace(answer.text, hidden=hidden))
            for answer, hidden in zip(answers, file.read(), strict=True)
        ]

    def pupil(self, answers: Sequence[Answer]) -> Pupil:
        size = self.ensemble.vocab_size
        ids = _frequent(answers, self.recipe.tokens_of(size), self.ensemble)
        hidden = answers[0].text.hidden
        assert hidden is not None, "answers that were read"
        return HeadPupil.of(self.runner, self.recipe, ids, hidden, size)


def _frequent(answers: Sequence[Answer], count: int, ensemble: Ensemble) -> list[int]:
    return frequent_tokens([answer.text for answer in answers], count, ensemble.vocab_size, ensemble.end_ids)


def trainable(answers: Sequence[Answer], recipe: Recipe) -> list[Answer]:
    """Those that are trained on. Raises InvalidDistillation where there are none."""
    fewest = 2 if isinstance(recipe, HeadRecipe) else 1
    found = [answer for answer in answers if not answer.is_held_out and len(answer.text.tokens) >= fewest]
    if not found:
        raise InvalidDistillation(
            f"none of the answers that are trained on has {fewest} tokens; give other prompts, or a larger --max-tokens"
        )
    return found

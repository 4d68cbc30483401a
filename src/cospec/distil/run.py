"""A distillation from its prompts to its folder, and on from where an earlier run was cut off."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TypeAlias

from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..errors import UnknownName, UnsupportedModel
from ..members import Member, written
from ..runner.hf.adapted import AdaptedRunner
from ..runner.hf.runner import HfRunner
from ..runner.hf.trainable import FirstLayers, load_first_layers
from ..runner.llamacpp import LlamaCppRunner
from .acceptance import HeldOutText, mean_acceptance
from .card import write_card
from .folder import write_drafter
from .outcome import CHECKPOINT, WORK, Outcome
from .task import Distillation
from .texts import WrittenText, texts_of
from .training import Training
from .vocabulary import frequent_tokens

# Given the name of a phase and the number of its parts: a bar while that is open, moved by what is called in it.
Bar: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


class Stopped(Exception):
    """Ctrl-C was noted: what is kept is whole, and the same command goes on from it."""


@dataclass(frozen=True, kw_only=True)
class DistilRun:
    """A distillation under way. bar: shows how far each phase is. should_stop: asked between its parts."""

    distillation: Distillation
    ensemble: Ensemble
    bar: Bar
    should_stop: Callable[[], bool]

    def finish(self) -> Outcome:
        """Do all that is left. Raises Stopped once that is asked for, and a CospecError for what cannot go on."""
        asked, record = self.distillation, self.distillation.record()
        layers, whole = self._load(self._base())
        base = written(Member(model=whole))
        record.save(asked.out)
        trained_on, held_out = self._texts()
        self._prepare(layers, trained_on, base)
        if record.acceptance_before is None:
            record = replace(record, acceptance_before=self._measure("measuring before", layers, held_out))
            record.save(asked.out)
        training = self._train(layers, trained_on)
        layers.round()
        after = self._measure("measuring after", layers, held_out)
        outcome = Outcome(
            acceptance_before=record.acceptance_before or 0.0,
            acceptance_after=after,
            steps=training.num_steps,
            seconds=training.progress.seconds,
            num_parameters=sum(each.numel() for each in layers.trained.values()),
            num_bytes=write_drafter(asked.out, layers, asked.training_recipe, self.ensemble.tokenizer, after),
            vocabulary=layers.width,
            num_texts=len(trained_on),
            num_tokens=sum(len(text.tokens) for text in trained_on),
            num_held_out_prompts=len(asked.held_out()),
            num_held_out_tokens=sum(len(each.text.tokens) for each in held_out),
        )
        write_card(asked, base, outcome)
        replace(record, outcome=outcome).save(asked.out)
        training.checkpoint.unlink(missing_ok=True)
        return outcome

    def _base(self) -> Member:
        """The member whose first layers are taken. Raises UnknownName, or UnsupportedModel for one without layers."""
        owner = self._owner()
        if not isinstance(self.ensemble.runners[owner], HfRunner | AdaptedRunner | LlamaCppRunner):
            raise UnsupportedModel(
                f"the member {self.ensemble.member_names[owner]!r} is no model that transformers reads, whose "
                "layers could be trained; name another one by --base"
            )
        return self.ensemble.sources[owner]

    def _owner(self) -> int:
        """The number of the member whose layers are taken, and whose prompt is read. Raises UnknownName."""
        names = self.ensemble.member_names
        name = self.distillation.base or names[0]
        if name not in names:
            raise UnknownName("member of --base", name, names)
        return names.index(name)

    def _load(self, base: Member) -> tuple[FirstLayers, str]:
        recipe = self.distillation.training_recipe
        return load_first_layers(str(base.model), base.options, recipe.layers, self.ensemble.vocab_size)

    def _prepare(self, layers: FirstLayers, texts: Sequence[WrittenText], base: str) -> None:
        """Choose what is proposed and what is trained."""
        recipe = self.distillation.training_recipe
        if recipe.vocabulary is not None:
            size, ends = self.ensemble.vocab_size, self.ensemble.end_ids
            layers.cut_vocabulary(frequent_tokens(texts, recipe.vocabulary, size, ends))
        if recipe.is_whole:
            layers.train_whole()
        else:
            layers.train_adapter(recipe.rank, recipe.seed, base)

    def _texts(self) -> tuple[list[WrittenText], list[HeldOutText]]:
        """The texts that are trained on, and the others; written now as far as they are not kept."""
        file, recipe = self.distillation.text_file(), self.distillation.text_recipe
        todo = len(file.prompts) - len(file.read().rows)
        if todo:
            with self.bar("writing texts", todo * recipe.samples) as advance:
                file.write(self._writer(), recipe, self.should_stop, advance)
        rows = file.read().rows
        if len(rows) < len(file.prompts):
            raise Stopped
        trained_on: list[WrittenText] = []
        held_out: list[HeldOutText] = []
        chosen, owner = self.distillation.held_out(), self._owner()
        for number, prompt in file.prompts.items():
            lane_prompts = self.ensemble.request(prompt, SamplingParams()).lane_prompts
            texts = texts_of(rows[number], lane_prompts[owner])
            if number in chosen:
                held_out += [HeldOutText(text=text, lane_prompts=lane_prompts) for text in texts]
            else:
                trained_on += texts
        return trained_on, held_out

    def _writer(self) -> Ensemble:
        """The ensemble, verified so that `auto` may measure while the texts depend on their seeds alone."""
        return self.ensemble.with_plan(verification="coupled") if self.ensemble.plan.name == "auto" else self.ensemble

    def _measure(self, phase: str, layers: FirstLayers, texts: Sequence[HeldOutText]) -> float:
        with self.bar(phase, len(texts)) as advance:

            def on_text() -> None:
                advance()
                if self.should_stop():
                    raise Stopped

            return mean_acceptance(layers, self.ensemble, texts, on_text)

    def _train(self, layers: FirstLayers, texts: Sequence[WrittenText]) -> Training:
        """The finished training."""
        asked = self.distillation
        checkpoint = asked.out / WORK / CHECKPOINT
        training = Training(layers=layers, texts=texts, recipe=asked.training_recipe, checkpoint=checkpoint)
        training.restore()
        with self.bar("training", training.num_steps - training.progress.step) as advance:
            if not training.run(self.should_stop, advance):
                raise Stopped
        return training

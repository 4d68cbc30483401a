"""A distillation from its prompts to its folder, and on from where an earlier run was cut off."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..errors import UnknownName
from .acceptance import mean_acceptance
from .card import write_card
from .folder import write_drafter
from .making import making, trainable
from .outcome import CHECKPOINT, WORK, Outcome
from .phases import Phases, Stopped
from .pupil import Pupil
from .task import Distillation
from .texts import Answer, texts_of
from .training import Training


@dataclass(frozen=True, kw_only=True)
class DistilRun:
    """A distillation under way."""

    distillation: Distillation
    ensemble: Ensemble
    phases: Phases

    def finish(self) -> Outcome:
        """Do all that is left. Raises Stopped once that is asked for, and a CospecError for what cannot go on."""
        asked, record = self.distillation, self.distillation.record()
        made = making(self.ensemble, asked.training_recipe, self._owner(), asked.out)
        record.save(asked.out)
        answers = made.read(self._answers(), self.phases)
        trained_on = trainable(answers, asked.training_recipe)
        held_out = [answer for answer in answers if answer.is_held_out]
        pupil = made.pupil(trained_on)
        if record.acceptance_before is None:
            record = replace(record, acceptance_before=self._measure("measuring before", pupil, held_out))
            record.save(asked.out)
        training = self._train(pupil, trained_on)
        pupil.parameters.round()
        after = self._measure("measuring after", pupil, held_out)
        outcome = Outcome(
            acceptance_before=record.acceptance_before or 0.0,
            acceptance_after=after,
            steps=training.num_steps,
            seconds=training.progress.seconds,
            num_parameters=pupil.parameters.num_parameters,
            num_bytes=write_drafter(asked.out, pupil, made.base, self.ensemble.tokenizer, after),
            vocabulary=self.ensemble.vocab_size if pupil.vocabulary is None else len(pupil.vocabulary),
            num_texts=len(trained_on),
            num_tokens=sum(len(answer.text.tokens) for answer in trained_on),
            num_held_out_prompts=len(asked.held_out()),
            num_held_out_tokens=sum(len(answer.text.tokens) for answer in held_out),
        )
        write_card(asked, made.base, outcome)
        replace(record, outcome=outcome).save(asked.out)
        training.checkpoint.unlink(missing_ok=True)
        return outcome

    def _owner(self) -> int:
        """The number of the member whose layers or embedding are taken, and whose prompt layers read. Raises
        UnknownName."""
        names = self.ensemble.member_names
        name = self.distillation.base or names[0]
        if name not in names:
            raise UnknownName("member of --base", name, names)
        return names.index(name)

    def _answers(self) -> list[Answer]:
        """All texts, by the numbers of their prompts; written now as far as they are not kept."""
        file, recipe = self.distillation.text_file(), self.distillation.text_recipe
        todo = len(file.prompts) - len(file.read().rows)
        if todo:
            with self.phases.bar("writing texts", todo * recipe.samples) as advance:
                file.write(self._writer(), recipe, self.phases.should_stop, advance)
        rows = file.read().rows
        if len(rows) < len(file.prompts):
            raise Stopped
        held_out, owner = self.distillation.held_out(), self._owner()
        answers: list[Answer] = []
        for number, prompt in file.prompts.items():
            lane_prompts = self.ensemble.request(prompt, SamplingParams()).lane_prompts
            answers += [
                Answer(text=text, lane_prompts=lane_prompts, is_held_out=number in held_out)
                for text in texts_of(rows[number], lane_prompts[owner])
            ]
        return answers

    def _writer(self) -> Ensemble:
        """The ensemble, verified so that `auto` may measure while the texts depend on their seeds alone."""
        return self.ensemble.with_plan(verification="coupled") if self.ensemble.plan.name == "auto" else self.ensemble

    def _measure(self, phase: str, pupil: Pupil, answers: Sequence[Answer]) -> float:
        with self.phases.bar(phase, len(answers)) as advance:

            def on_text() -> None:
                advance()
                if self.phases.should_stop():
                    raise Stopped

            return mean_acceptance(pupil, self.ensemble, answers, on_text)

    def _train(self, pupil: Pupil, answers: Sequence[Answer]) -> Training:
        """The finished training."""
        asked = self.distillation
        training = Training(
            pupil=pupil,
            texts=[answer.text for answer in answers],
            recipe=asked.training_recipe,
            checkpoint=asked.out / WORK / CHECKPOINT,
        )
        training.restore()
        with self.phases.bar("training", training.num_steps - training.progress.step) as advance:
            if not training.run(self.phases.should_stop, advance):
                raise Stopped
        return training

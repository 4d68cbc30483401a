"""Training on texts that the ensemble wrote, step by step, with a checkpoint to go on from."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import InvalidDistillation
from ..storage import refusal
from .pupil import Pupil
from .recipe import Recipe
from .texts import WrittenText

# Batches whose texts are sorted by length together, so that little is padded.
BATCHES_A_POOL = 16
WARM_UP = 0.05
MOST_NORM = 1.0
SECONDS_BETWEEN_CHECKPOINTS = 30.0


@dataclass(kw_only=True)
class Progress:
    """How far a training is. step: steps done. seconds: that they took. acceptance: of the texts of the last step."""

    step: int = 0
    seconds: float = 0.0
    acceptance: float = 0.0


@dataclass(kw_only=True)
class Training:
    """Minimises the drafter's distance from r. settings: what its checkpoint is held against.

    Texts, their order and the learning rate depend on the step alone, so that a training that goes on from a checkpoint
    ends as one that was never interrupted.
    """

    pupil: Pupil
    texts: Sequence[WrittenText]
    recipe: Recipe
    checkpoint: Path
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self._optimizer = torch.optim.AdamW(
            self.pupil.parameters.trained.values(), lr=self.recipe.peak_lr, betas=(0.9, 0.99), weight_decay=0.0
        )

    @property
    def num_steps(self) -> int:
        per_epoch = math.ceil(len(self.texts) / self.recipe.batch)
        return self.recipe.steps or per_epoch * self.recipe.epochs

    def run(self, should_stop: Callable[[], bool], on_step: Callable[[], None]) -> bool:
        """Do the steps that are left; whether all are done. Raises InvalidDistillation where the loss is no number."""
        saved = time.monotonic()
        for step, chosen in enumerate(self._batches()):
            if step < self.progress.step:
                continue
            if should_stop():
                self.save()
                return False
            self._step(step, [self.texts[index] for index in chosen])
            on_step()
            if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                self.save()
                saved = time.monotonic()
        self.save()
        return True

    def save(self) -> None:
        """Write the checkpoint whole or not at all. Raises CospecError where it cannot be written."""
        state = {
            "progress": vars(self.progress),
            "trained": self.pupil.parameters.state(),
            "optimizer": self._optimizer.state_dict(),
        }
        beside = self.checkpoint.with_name(f"{self.checkpoint.name}.new")
        try:
            torch.save(state, beside)
            beside.replace(self.checkpoint)
        except (OSError, RuntimeError) as error:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise refusal(self.checkpoint, error if isinstance(error, OSError) else OSError(str(error))) from None

    def restore(self) -> None:
        """Take over the checkpoint, if there is one. Raises InvalidDistillation for a file that is none."""
        if not self.checkpoint.exists():
            return
        try:
            state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
            self.pupil.parameters.restore(state["trained"])
            self._optimizer.load_state_dict(state["optimizer"])
            self.progress = Progress(**state["progress"])
        except Exception as error:  # what is no checkpoint may raise anything
            raise InvalidDistillation(
                f"{self.checkpoint} is no checkpoint of this training ({error}); remove it to train anew"
            ) from None

    def _step(self, step: int, texts: Sequence[WrittenText]) -> None:
        begun = time.monotonic()
        progress = step / self.num_steps
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.peak_lr * _rate(progress)
        loss, varied = self.pupil.learn(texts, progress)
        norm = torch.nn.utils.clip_grad_norm_(self.pupil.parameters.trained.values(), MOST_NORM)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise InvalidDistillation(
                f"the loss of step {step + 1} is {loss:g}, its gradient's norm {norm:g}: training cannot go on. Give "
                "another --out and a lower --lr; the texts can be taken along (see the guide on distilling)"
            )
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.progress.step, self.progress.acceptance = step + 1, 1 - varied
        self.progress.seconds += time.monotonic() - begun

    def _batches(self) -> Iterator[list[int]]:
        """Indices of the texts of each step."""
        steps: list[list[int]] = []
        for epoch in range(self.num_steps):
            steps = self._epoch(epoch)
            done = epoch * len(steps)
            yield from steps[: self.num_steps - done]
            if done + len(steps) >= self.num_steps:
                return

    def _epoch(self, epoch: int) -> list[list[int]]:
        """Every text once, shuffled, those of a batch of similar lengths."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1009 + epoch)
        order: list[int] = torch.randperm(len(self.texts), generator=generator).tolist()
        size, pool = self.recipe.batch, self.recipe.batch * BATCHES_A_POOL
        batches = []
        for start in range(0, len(order), pool):
            alike = sorted(order[start : start + pool], key=lambda index: len(self.texts[index].tokens))
            batches += [alike[at : at + size] for at in range(0, len(alike), size)]
        shuffled: list[int] = torch.randperm(len(batches), generator=generator).tolist()
        return [batches[index] for index in shuffled]


def _rate(progress: float) -> float:
    """Share of the highest learning rate: a short warm-up that begins above zero, then half a cosine to zero."""
    return min(1.0, (progress + 1e-3) / WARM_UP) * (1 + math.cos(math.pi * progress)) / 2

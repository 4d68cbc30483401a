"""Training of first layers on texts that the ensemble wrote, step by step, with a checkpoint to go on from."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidDistillation
from ..runner.hf.trainable import FirstLayers
from ..storage import refusal
from .loss import backward
from .recipe import TrainingRecipe
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


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Texts that go through the layers together.

    input_ids: [texts, width], padded at their ends. places: row and column behind which each token was written.
    columns, probs: [tokens, kept], see `distances`.
    """

    input_ids: Tensor
    places: tuple[Tensor, Tensor]
    columns: Tensor
    probs: Tensor

    @classmethod
    def of(cls, texts: Sequence[WrittenText], layers: FirstLayers) -> "Batch":
        fed = [(*text.prompt, *text.tokens[:-1]) for text in texts]
        width = max(map(len, fed))
        # Padding stands behind all that is read, where no token attends to it.
        input_ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in fed])
        rows = torch.tensor([row for row, text in enumerate(texts) for _ in text.tokens])
        columns = torch.cat([torch.arange(len(text.tokens)) + len(text.prompt) - 1 for text in texts])
        kept = torch.cat([text.kept for text in texts]).to(layers.device)
        return cls(
            input_ids=input_ids.to(layers.device),
            places=(rows, columns),
            columns=layers.columns[kept],
            probs=torch.cat([text.probs for text in texts]).to(layers.device),
        )


@dataclass(kw_only=True)
class Training:
    """Minimises the drafter's distance from r. settings: what its checkpoint is held against.

    Texts, their order and the learning rate depend on the step alone, so that a training that goes on from a checkpoint
    ends as one that was never interrupted.
    """

    layers: FirstLayers
    texts: Sequence[WrittenText]
    recipe: TrainingRecipe
    checkpoint: Path
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self._optimizer = torch.optim.AdamW(
            self.layers.trained.values(), lr=self.recipe.peak_lr, betas=(0.9, 0.99), weight_decay=0.0
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
            "trained": self.layers.state(),
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
            state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True, map_location=self.layers.device)
            self.layers.restore(state["trained"])
            self._optimizer.load_state_dict(state["optimizer"])
            self.progress = Progress(**state["progress"])
        except Exception as error:  # what is no checkpoint may raise anything
            raise InvalidDistillation(
                f"{self.checkpoint} is no checkpoint of this training ({error}); remove it to train anew"
            ) from None

    def _step(self, step: int, texts: Sequence[WrittenText]) -> None:
        begun, layers = time.monotonic(), self.layers
        progress = step / self.num_steps
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.peak_lr * _rate(progress)
        batch = Batch.of(texts, layers)
        hidden = layers.hidden(batch.input_ids)[batch.places]
        loss, varied = backward(hidden, layers.logits, batch.columns, batch.probs, progress, layers.width)
        norm = torch.nn.utils.clip_grad_norm_(layers.trained.values(), MOST_NORM)
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

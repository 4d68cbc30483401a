"""What may be trained on texts: the first layers of a member, or a drafting head."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..runner.hf.trainable import FirstLayers, Trained
from .loss import backward
from .texts import WrittenText


class Pupil(Protocol):
    """parameters: those that are trained. vocabulary: ids of the columns of what is proposed; None for all."""

    @property
    def parameters(self) -> Trained: ...

    @property
    def vocabulary(self) -> Sequence[int] | None: ...

    @property
    def is_whole(self) -> bool:
        """Whether its folder is a model of its own, which needs a tokenizer; what stands on a base has the base's."""
        ...

    def learn(self, texts: Sequence[WrittenText], progress: float) -> tuple[float, float]:
        """Add the gradients of the mean distance from r at these texts' tokens; the loss, and the mean total variation.
        progress: of the training, from 0 to 1."""
        ...

    def proposals(self, text: WrittenText) -> Tensor:
        """q of each of the text's tokens, or of all but the first ones: [at most len(tokens), columns]."""
        ...

    def save(self, folder: Path) -> Path:
        """Write what `--proposer` takes but for `cospec.json`; the file of the weights."""
        ...

    def description(self, base: str) -> dict[str, Any]:
        """What `cospec.json` says of it beside its vocabulary. base: the model that it stands on."""
        ...


class LayersPupil:
    """A member's first layers. A token is proposed behind those before it, which they read."""

    def __init__(self, layers: FirstLayers) -> None:
        self.layers = layers

    @property
    def parameters(self) -> Trained:
        return self.layers

    @property
    def vocabulary(self) -> Sequence[int] | None:
        return self.layers.vocabulary

    @property
    def is_whole(self) -> bool:
        return not self.layers.is_adapter

    def learn(self, texts: Sequence[WrittenText], progress: float) -> tuple[float, float]:
        layers = self.layers
        fed = [(*text.prompt, *text.tokens[:-1]) for text in texts]
        width = max(map(len, fed))
        # Padding stands behind all that is read, where no token attends to it.
        input_ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in fed], device=layers.device)
        rows = torch.tensor([row for row, text in enumerate(texts) for _ in text.tokens])
        places = torch.cat([torch.arange(len(text.tokens)) + len(text.prompt) - 1 for text in texts])
        kept = torch.cat([text.kept for text in texts]).to(layers.device)
        probs = torch.cat([text.probs for text in texts]).to(layers.device)
        hidden = layers.hidden(input_ids)[rows, places]
        return backward(hidden, layers.logits, layers.columns[kept], probs, progress, layers.width)

    def proposals(self, text: WrittenText) -> Tensor:
        fed = torch.tensor([[*text.prompt, *text.tokens[:-1]]], device=self.layers.device)
        return self.layers.logits(self.layers.hidden(fed)[0, len(text.prompt) - 1 :]).softmax(-1)

    def save(self, folder: Path) -> Path:
        return self.layers.save(folder)

    def description(self, base: str) -> dict[str, Any]:
        """A whole model's own files say the same."""
        return {} if self.is_whole else {"layers": self.layers.num_layers}

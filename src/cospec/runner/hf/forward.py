"""A forward pass over the slot cache, through the model as transformers wrote it, whatever its architecture."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .adapter import Adapter
from .batch import ForwardBatch
from .cache import SlotCache, cache_parameter
from .lowrank import ModuleTerms
from .masks import Masks


class Forward(Protocol):
    """A model's forward pass. padding: the cost of a token of padding, in tokens."""

    padding: float

    def __call__(self, input_ids: Tensor, batch: ForwardBatch, num_logits: Sequence[int], cache: SlotCache) -> Tensor:
        """Logits [sum of num_logits, columns] of the last `num_logits` tokens of each row of input_ids [rows, width],
        one row behind the other. At least one of num_logits is positive. The cache is written and read as `batch` says.
        """
        ...

    def adapt(self, adapters: Sequence[Adapter]) -> None:
        """Take these adapters in place of others; a batch's rows say which is theirs. All of their modules are the
        model's."""
        ...

    def part(self, model: PreTrainedModel) -> "Forward":
        """The pass, without adapters, of a model that is the first layers of this one, or has a smaller head: of the
        same weights."""
        ...


class ModelForward:
    """The model's own forward pass."""

    padding = 1.0

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        self._model = model
        self._terms = ModuleTerms(model)
        self._cache_parameter = cache_parameter(model)
        # transformers takes masks by layer type only where a model has several types, or could have.
        self._is_by_type = getattr(model, "_is_stateful", False)
        # Other attention implementations than SDPA take a missing mask to mean that every token attends to all.
        self._masks = Masks(config, model.dtype, may_omit=config._attn_implementation == "sdpa")

    def adapt(self, adapters: Sequence[Adapter]) -> None:
        self._terms.adapt(adapters)

    def part(self, model: PreTrainedModel) -> "ModelForward":
        return ModelForward(model)

    def __call__(self, input_ids: Tensor, batch: ForwardBatch, num_logits: Sequence[int], cache: SlotCache) -> Tensor:
        cache.batch = batch
        masks = self._masks.of(batch)
        with self._terms.applied(batch.adapters):
            logits: Tensor = self._model(
                input_ids=input_ids,
                attention_mask=masks if self._is_by_type or len(masks) > 1 else next(iter(masks.values())),
                position_ids=batch.position_ids,
                use_cache=True,
                logits_to_keep=max(num_logits),
                **{self._cache_parameter: cache},
            ).logits
        # Counted from the last, since a model may not know `logits_to_keep` and give all.
        if min(num_logits) == max(num_logits):
            return logits[:, logits.shape[1] - num_logits[0] :].flatten(0, 1)
        return torch.cat([row[row.shape[0] - count :] for row, count in zip(logits, num_logits, strict=True)])

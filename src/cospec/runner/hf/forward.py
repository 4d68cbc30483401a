"""A forward pass over the slot cache, through the model as transformers wrote it, whatever its architecture."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .adapter import Adapter
from .batch import ForwardBatch
from .cache import SlotCache, cache_parameter
from .experts import of_batch
from .flat import FlatBatch, laid_out
from .lowrank import ModuleTerms
from .masks import Masks
from .ragged import Ragged


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
        if batch.blocks is not None:
            return self._flat_logits(Ragged.of(input_ids, batch), input_ids, batch, num_logits, cache)
        cache.batch = batch
        with self._terms.applied(batch.adapters), of_batch(batch):
            logits = self._logits(input_ids, batch.position_ids, batch, max(num_logits), cache)
        # Counted from the last, since a model may not know `logits_to_keep` and give all.
        if min(num_logits) == max(num_logits):
            return logits[:, logits.shape[1] - num_logits[0] :].flatten(0, 1)
        return torch.cat([row[row.shape[0] - count :] for row, count in zip(logits, num_logits, strict=True)])

    def _logits(
        self, input_ids: Tensor, position_ids: Tensor, batch: ForwardBatch, num_kept: int, cache: SlotCache
    ) -> Tensor:
        masks = self._masks.of(batch)
        logits: Tensor = self._model(
            input_ids=input_ids,
            attention_mask=masks if len(masks) > (0 if self._is_by_type else 1) else next(iter(masks.values()), None),
            position_ids=position_ids,
            use_cache=True,
            logits_to_keep=num_kept,
            **{self._cache_parameter: cache},
        ).logits
        return logits

    def _flat_logits(
        self, ragged: Ragged, input_ids: Tensor, batch: ForwardBatch, num_logits: Sequence[int], cache: SlotCache
    ) -> Tensor:
        """The same of the tokens one behind the other, each a sequence of its own to all modules but attention."""
        cache.batch = FlatBatch(batch, ragged)
        ids, positions = ragged.flattened(input_ids)[:, None], ragged.flattened(batch.position_ids)[:, None]
        adapters = batch.adapters
        if adapters is not None:
            adapters = adapters.at(ragged.flattened(adapters.ids[:, None].expand(-1, ragged.width)))
        with self._terms.applied(adapters), laid_out(ragged):
            logits = ragged.padded(self._logits(ids, positions, batch, 1, cache)[:, 0])
        return torch.cat([row[row.shape[0] - count :] for row, count in zip(logits, num_logits, strict=True)])

"""A forward pass over the slot cache, through the model as transformers wrote it, whatever its architecture."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .adapter import Adapter
from .batch import ForwardBatch
from .cache import SlotCache, cache_parameter
from .experts import of_batch
from .flat import FlatBatch, laid_out
from .hidden import HiddenRows, counts_of, output_embedding
from .lowrank import ModuleTerms
from .masks import Masks
from .ragged import Ragged


class Forward(Protocol):
    """A model's forward pass. padding: the cost of a token of padding, in tokens."""

    padding: float

    def __call__(
        self,
        input_ids: Tensor,
        batch: ForwardBatch,
        num_logits: Sequence[int],
        cache: SlotCache,
        handed: HiddenRows | None = None,
    ) -> Tensor:
        """Logits [sum of num_logits, columns] of the last `num_logits` tokens of each row of input_ids [rows, width],
        one row behind the other. At least one of num_logits is positive. The cache is written and read as `batch` says.
        handed: takes the hidden states of as many tokens as it says.
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

    def __call__(
        self,
        input_ids: Tensor,
        batch: ForwardBatch,
        num_logits: Sequence[int],
        cache: SlotCache,
        handed: HiddenRows | None = None,
    ) -> Tensor:
        if batch.blocks is not None:
            return self._flat_logits(Ragged.of(input_ids, batch), input_ids, batch, num_logits, cache, handed)
        cache.batch = batch
        with self._terms.applied(batch.adapters), of_batch(batch), self._read_by_head(handed) as read:
            most = max(counts_of(num_logits, handed))
            logits = self._logits(input_ids, batch.position_ids, batch, most, cache)
        if handed is not None:
            handed.take(_last(read[0], handed.counts))
        return _last(logits, num_logits)

    @contextmanager
    def _read_by_head(self, handed: HiddenRows | None) -> Iterator[list[Tensor]]:
        """What the output embedding reads within it, in this thread: another's pass may share the module."""
        read: list[Tensor] = []
        head = None if handed is None else output_embedding(self._model)
        if head is None:
            yield read
            return
        own = get_ident()

        def note(_module: object, inputs: tuple[Any, ...]) -> None:
            if get_ident() == own:
                read.append(inputs[0])

        hook = head.register_forward_pre_hook(note)
        try:
            yield read
        finally:
            hook.remove()

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
        self,
        ragged: Ragged,
        input_ids: Tensor,
        batch: ForwardBatch,
        num_logits: Sequence[int],
        cache: SlotCache,
        handed: HiddenRows | None,
    ) -> Tensor:
        """The same of the tokens one behind the other, each a sequence of its own to all modules but attention."""
        cache.batch = FlatBatch(batch, ragged)
        ids, positions = ragged.flattened(input_ids)[:, None], ragged.flattened(batch.position_ids)[:, None]
        adapters = batch.adapters
        if adapters is not None:
            adapters = adapters.at(ragged.flattened(adapters.ids[:, None].expand(-1, ragged.width)))
        with self._terms.applied(adapters), laid_out(ragged), self._read_by_head(handed) as read:
            logits = ragged.padded(self._logits(ids, positions, batch, 1, cache)[:, 0])
        if handed is not None:
            handed.take(_last(ragged.padded(read[0][:, 0]), handed.counts))
        return _last(logits, num_logits)


def _last(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Of [rows, columns, ...] the last `counts` columns of each, one row behind the other. Counted from the last:
    a model may not know `logits_to_keep`, and give all."""
    if min(counts) == max(counts):
        return rows[:, rows.shape[1] - counts[0] :].flatten(0, 1)
    return torch.cat([row[row.shape[0] - count :] for row, count in zip(rows, counts, strict=True)])

"""Attention masks: what each token of a forward pass may attend to."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .batch import ForwardBatch

ATTENTION = frozenset({"full_attention", "sliding_attention"})
# In models with recurrent states: layers with one, "hybrid" with attention beside it; and layers with nothing to keep.
RECURRENT = frozenset({"linear_attention", "conv", "hybrid"})
STATELESS = frozenset({"mlp", "moe"})


class Masks:
    """The masks of a model's layers.

    config: of the text model. dtype: what it computes in. may_omit: whether attention without a mask is causal, and a
    single query attends to all keys. layer_types: each layer's type; a model that names none has one type throughout.
    """

    def __init__(self, config: Any, dtype: torch.dtype, *, may_omit: bool) -> None:
        window: int | None = getattr(config, "sliding_window", None)
        only_type = "sliding_attention" if window else "full_attention"
        named: list[str] | None = getattr(config, "layer_types", None)
        self.layer_types = list(named or [only_type] * config.num_hidden_layers)
        types = set(self.layer_types)
        attention = types - RECURRENT - STATELESS | ({"full_attention"} if "hybrid" in types else set())
        self._windows = {
            layer_type: window if layer_type == "sliding_attention" else None for layer_type in sorted(attention)
        }
        # Padding leaves states as they are by other means: a mask would change what continues a text.
        self._unmasked: dict[str, Tensor | None] = dict.fromkeys(RECURRENT) if types & RECURRENT else {}
        self._dtype = dtype
        self._may_omit = may_omit

    @property
    def windows(self) -> list[int | None]:
        """Of each layer how many tokens it attends to at most; None for all."""
        return [self._windows.get(layer_type) for layer_type in self.layer_types]

    def of(self, batch: ForwardBatch) -> Mapping[str, Tensor | None]:
        """For each layer type a mask [rows, 1, width, length], or None where attention needs none; nothing for a model
        without attention."""
        if not self._windows:
            return {}
        return self._unmasked | {
            layer_type: None if self._may_omit and batch.is_causal(window) else mask(batch, self._dtype, window)
            for layer_type, window in self._windows.items()
        }


def mask(batch: ForwardBatch, dtype: torch.dtype, sliding_window: int | None = None) -> Tensor:
    """[rows, 1, width, length], 0 where a token may attend and the type's minimum where it may not."""
    queries = batch.position_ids[:, None, :, None]
    keys = torch.arange(batch.length, device=queries.device)
    is_hidden = keys > queries
    if sliding_window is not None:
        is_hidden |= keys <= queries - sliding_window
    empty = torch.zeros(is_hidden.shape, dtype=dtype, device=queries.device)
    return empty.masked_fill_(is_hidden, torch.finfo(dtype).min)

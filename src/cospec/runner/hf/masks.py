"""What each token of a call may look at."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .window import Places


class Masks:
    """The masks of a model's layers.

    config: of the model's text. dtype: what it computes in. may_omit: whether attention that is given no mask sees
    whatever stands before a token, and a single token sees all. kinds: each layer's type.
    """

    def __init__(self, config: Any, dtype: torch.dtype, *, may_omit: bool) -> None:
        self.kinds = _kinds(config)
        window: int | None = getattr(config, "sliding_window", None)
        self._windows = {kind: window if kind == "sliding_attention" else None for kind in sorted(set(self.kinds))}
        self._dtype = dtype
        self._may_omit = may_omit

    def at(self, places: Places) -> Mapping[str, Tensor | None]:
        """For each type of layer in use a mask [rows, 1, width, length], or none where none is needed."""
        return {kind: self._mask(places, window) for kind, window in self._windows.items()}

    def _mask(self, places: Places, sliding_window: int | None) -> Tensor | None:
        if self._may_omit and places.is_causal(sliding_window):
            return None
        return mask(places, self._dtype, sliding_window)


def mask(places: Places, dtype: torch.dtype, sliding_window: int | None = None) -> Tensor:
    """[rows, 1, width, length], 0 where a token may look and the type's minimum where it may not."""
    queries = places.position_ids[:, None, :, None]
    keys = torch.arange(places.length, device=queries.device)
    is_hidden = keys > queries
    if sliding_window is not None:
        is_hidden |= keys <= queries - sliding_window
    empty = torch.zeros(is_hidden.shape, dtype=dtype, device=queries.device)
    return empty.masked_fill_(is_hidden, torch.finfo(dtype).min)


def _kinds(config: Any) -> list[str]:
    """Each layer's type; a model that names no types is of one throughout."""
    unnamed = "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
    return list(getattr(config, "layer_types", None) or [unnamed] * config.num_hidden_layers)

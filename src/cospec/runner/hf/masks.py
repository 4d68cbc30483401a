"""What each token of a call may look at."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .window import Places


class Masks:
    """The masks of a model's layers.

    config: of the model's text. dtype: what it computes in. may_omit: whether attention that is given no mask sees
    whatever stands before a token, and a single token sees all.
    """

    def __init__(self, config: object, dtype: torch.dtype, *, may_omit: bool) -> None:
        self._windows = _sliding_windows(config)
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


def _sliding_windows(config: object) -> Mapping[str, int | None]:
    """Each type of layer in use with its window; a model that names no types is of one throughout."""
    window: int | None = getattr(config, "sliding_window", None)
    unnamed = ["sliding_attention" if window else "full_attention"]
    kinds = sorted(set(getattr(config, "layer_types", None) or unnamed))
    return {kind: window if kind == "sliding_attention" else None for kind in kinds}

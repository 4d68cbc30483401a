"""A model's forward call on the slot cache: as transformers wrote it, whatever the model is."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .cache import SlotCache, cache_argument
from .masks import Masks
from .window import Places


class Forward(Protocol):
    """How a model is called. padding: what a token costs that only fills up a shorter row, over what others do."""

    padding: float

    def __init__(self, model: PreTrainedModel, cache: SlotCache) -> None: ...

    def __call__(self, input_ids: Tensor, places: Places, kept: Sequence[int]) -> Tensor:
        """Logits [sum of kept, columns] of the last `kept` tokens of each row of input_ids [rows, width] at these
        places, one row behind the other. At least one token of all is kept."""
        ...


class ModelForward:
    """The model as it is."""

    padding = 1.0

    def __init__(self, model: PreTrainedModel, cache: SlotCache) -> None:
        config = model.config.get_text_config()
        self._model, self._cache = model, cache
        self._cache_argument = cache_argument(model, cache)
        # Other kinds of attention take "no mask" to mean that everything may be seen.
        self._masks = Masks(config, model.dtype, may_omit=config._attn_implementation == "sdpa")

    def __call__(self, input_ids: Tensor, places: Places, kept: Sequence[int]) -> Tensor:
        self._cache.window = places
        masks = self._masks.at(places)
        logits: Tensor = self._model(
            input_ids=input_ids,
            # By type only where there are several.
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            position_ids=places.position_ids,
            use_cache=True,
            logits_to_keep=max(kept),
            **self._cache_argument,
        ).logits
        # Counted from the last, since a model may not know `logits_to_keep`.
        if min(kept) == max(kept):
            return logits[:, logits.shape[1] - kept[0] :].flatten(0, 1)
        return torch.cat([row[row.shape[0] - count :] for row, count in zip(logits, kept, strict=True)])

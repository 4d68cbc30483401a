"""transformers' own modules over tokens that stand one behind the other, as sequences of one token each.

Whatever a module computes then has the shape of the number of tokens alone. Attention, which must know whose tokens
they are, is an attention function registered with transformers: it lays queries out in rows, and attends to the slots.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...errors import UnsupportedModel
from .batch import ForwardBatch
from .invariant import Blocks
from .lowrank import RowAdapters
from .ragged import Ragged

PREFIX = "cospec_invariant_"
# What an attention function may be given that changes nothing here: the mask says what is attended to.
_NOTED = {"is_causal", "sliding_window", "position_ids", "cache_position", "output_attentions", "use_cache"}


class FlatBatch:
    """The layout of a pass whose tokens stand one behind the other; the cache reads and writes them by `batch`."""

    def __init__(self, batch: ForwardBatch, ragged: Ragged) -> None:
        self._batch, self._ragged = batch, ragged
        self.width, self.length, self.num_slots = 1, batch.length, batch.num_slots
        self.position_ids, self.tokens = batch.position_ids, batch.tokens
        self.adapters: RowAdapters | None = batch.adapters
        self.blocks: Blocks | None = batch.blocks

    def is_causal(self, sliding_window: int | None = None) -> bool:
        return False

    def write(self, stored: Tensor, new: Tensor) -> None:
        self._batch.write(stored, self._ragged.padded(new[:, :, 0]).transpose(1, 2))

    def read(self, stored: Tensor) -> Tensor:
        return self._batch.read(stored)


# The layout of the pass that runs: a model may be run by several threads.
_LAYOUT: ContextVar[Ragged | None] = ContextVar("layout", default=None)


@contextmanager
def laid_out(ragged: Ragged) -> Iterator[None]:
    """Within it, models that `attend_by_layout` attend to the slots of these tokens."""
    token = _LAYOUT.set(ragged)
    try:
        yield
    finally:
        _LAYOUT.reset(token)


def attend_by_layout(model: PreTrainedModel) -> None:
    """Give the model the attention of laid-out passes; its ordinary ones stay as they are."""
    config = model.config.get_text_config()
    usual: str = config._attn_implementation
    if usual.startswith(PREFIX):
        return
    name = PREFIX + usual
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, partial(_attend, usual))
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[usual])
    config._attn_implementation = name


def _attend(
    usual: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """query: [tokens, heads, 1, dim]. key, value: [rows, kv_heads, length, dim], as the cache gave them."""
    ragged = _LAYOUT.get()
    if ragged is None:
        eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        function = ALL_ATTENTION_FUNCTIONS.get_interface(usual, eager)
        attended, _ = function(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others)
        return attended, None
    change = _change(others)
    if attention_mask is None or ragged.blocks is None:
        raise UnsupportedModel("its attention is not given the mask of the pass")
    queries = ragged.padded(query[:, :, 0]).transpose(1, 2)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rows = ragged.blocks.attend(queries, key, value, attention_mask, scale, change)
    return ragged.flattened(rows.transpose(1, 2))[:, None], None


def _change(others: dict[str, Any]) -> Callable[[Tensor], Tensor] | None:
    """What scores become before the softmax. Raises UnsupportedModel for what this attention does not know."""
    given = {name for name, value in others.items() if value is not None} - _NOTED
    cap = others.get("softcap")
    if unknown := sorted(given - {"softcap"}):
        raise UnsupportedModel(f"its attention is given {', '.join(unknown)}, which invariant numerics do not know")
    return None if cap is None else lambda scores: (scores / cap).tanh() * cap

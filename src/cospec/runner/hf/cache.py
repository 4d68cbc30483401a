"""The key-value cache: one K and one V a layer, [slots, heads, length, dim], which rows write at their own lengths.

Trimming a slot changes a number in the slot and touches nothing here: what lies beyond a slot's length is masked, and
overwritten by the next tokens. Recurrent layers have states instead, or beside (see `states`).
"""

import inspect
import math
import weakref
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from .batch import ForwardBatch, RaggedBatch
from .rollback import StateLedger, StatePlan
from .states import StateLayer, StateUpdate, StateView

FIRST_LENGTH = 64


def cache_parameter(model: PreTrainedModel) -> str:
    """The name of the model's parameter that takes a cache: transformers 5.24 began to rename it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def cache_argument(model: PreTrainedModel) -> dict[str, Cache]:
    """A new cache of transformers' own, under the name by which the model takes it."""
    return {cache_parameter(model): DynamicCache(config=model.config)}


class SlotCache(Cache):
    """The cache that transformers is given.

    batch: the layout of the forward pass that runs next. num_spare: slots in front of the others, which are allocated
    beside them. num_growths: how often a layer was allocated anew, so that its addresses changed. time_steps: of each
    layer that limits the steps of its time, by number, the least and the most.
    """

    batch: ForwardBatch

    def __init__(
        self, num_layers: int, num_spare: int = 0, time_steps: Mapping[int, tuple[float, float]] | None = None
    ) -> None:
        self.num_spare = num_spare
        self.num_growths = 0
        self._addresses: tuple[int, NDArray[np.int64]] | None = None
        self.slot_layers = [SlotLayer(self) for _ in range(num_layers)]
        self.state_layers: dict[int, StateLayer] = defaultdict(StateLayer)
        self.ledger = StateLedger()
        self._time_steps = time_steps or {}
        super().__init__(layers=[*self.slot_layers])

    @property
    def is_allocated(self) -> bool:
        """Whether a first pass has shown how many heads and which dimension keys and values have."""
        return self.slot_layers[0].is_initialized

    @property
    def num_bytes(self) -> int:
        """Bytes allocated so far, of all layers."""
        allocated = [layer for layer in self.slot_layers if layer.is_initialized]
        tensors = [tensor for layer in allocated for tensor in (layer.keys, layer.values)]
        tensors += [tensor for layer in self.state_layers.values() for tensor in layer.tensors]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def state_bytes(self) -> int | None:
        """Bytes of recurrent states, snapshots and what is kept beside them, of one slot; None before a first pass."""
        tensors = [tensor for layer in self.state_layers.values() for tensor in layer.tensors]
        return sum(tensor[0].numel() * tensor.element_size() for tensor in tensors) if tensors else None

    def reserve(self, num_slots: int, length: int) -> None:
        """Allocate enough for passes of up to so many slots and positions, which then move nothing."""
        for layer in self.slot_layers:
            if layer.is_initialized:
                layer.reserve(num_slots, length)

    def addresses(self) -> NDArray[np.int64]:
        """[layers, 3]: of each attention layer the addresses of keys and of values, and the positions of a slot."""
        if self._addresses is None or self._addresses[0] != self.num_growths:
            assert all(each.keys.dtype == torch.float32 for each in self.slot_layers), "compiled passes keep float32"
            found = [(each.keys.data_ptr(), each.values.data_ptr(), each.keys.shape[2]) for each in self.slot_layers]
            self._addresses = self.num_growths, np.array(found)
        return self._addresses[1]

    def clear(self, slot: int) -> None:
        """Zero a slot, whose last sequence may have overflowed: a masked NaN is still multiplied by 0."""
        self.ledger.forget(slot)
        for layer in self.slot_layers:
            if layer.is_initialized and slot < layer.keys.shape[0]:
                layer.keys[slot].zero_()
                layer.values[slot].zero_()

    def copy(self, source: int, slot: int, length: int) -> None:
        """Let a slot hold the first `length` positions of another one."""
        for layer in self.slot_layers:
            if layer.is_initialized:
                layer.reserve(slot + 1, length)
                layer.keys[slot, :, :length] = layer.keys[source, :, :length]
                layer.values[slot, :, :length] = layer.values[source, :, :length]

    def plan(self, batch: RaggedBatch, settled: Sequence[int]) -> StatePlan:
        """Begin a pass: what it does to recurrent states. They are lost unless it is committed to the ledger."""
        self._plan = self.ledger.plan(batch, settled)
        return self._plan

    # What transformers' recurrent layers call.

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.slot_layers[layer_idx].get_seq_length()

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        return True

    def is_recording_past(self, layer_idx: int) -> bool:
        # So that a single token's convolution is given its window too, rather than change a state in place.
        return True

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> None:
        return None

    def update_conv_state(self, conv_states: Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any) -> Tensor:
        """[rows, channels, conv_kernel_size - 1 + width]: the inputs [rows, channels, width] behind their windows."""
        return self.state_layers[layer_idx].convolve(self._plan, conv_states, state_idx, kwargs["conv_kernel_size"])

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Any:
        """A view, which the layer hands to its state update (see `updates`)."""
        layer, plan = self.state_layers[layer_idx], self._plan

        def run(update: StateUpdate) -> Tensor:
            return layer.run(plan, update)

        return StateView(run, self._time_steps.get(layer_idx, (0.0, math.inf)))

    def update_recurrent_state(self, recurrent_states: Any, layer_idx: int, state_idx: int = 0, **kwargs: Any) -> Any:
        # A view's update has stored it.
        assert recurrent_states is None, "a state that was updated in another way than through its view"


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One attention layer's keys and values, as many slots and positions as were needed so far."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Without a cycle, a cache that nobody uses is freed at once.
        self._cache: SlotCache = weakref.proxy(cache)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = key_states.new_zeros((0, key_states.shape[1], 0, key_states.shape[3]))
        self.values = value_states.new_zeros((0, value_states.shape[1], 0, value_states.shape[3]))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store [rows, heads, width, dim] each; all that the rows' slots hold now, [rows, heads, length, dim] each."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        batch = self._cache.batch
        self.reserve(batch.num_slots, batch.length)
        # A compiled pass keeps float32, whatever the model's type.
        batch.write(self.keys, key_states.to(self.keys.dtype))
        batch.write(self.values, value_states.to(self.values.dtype))
        return batch.read(self.keys).to(key_states.dtype), batch.read(self.values).to(value_states.dtype)

    def reserve(self, num_slots: int, length: int) -> None:
        """Grow to at least so many slots and positions. Both double, so that copies stay in proportion to the size."""
        if self.keys.shape[0] >= num_slots and self.keys.shape[2] >= length:
            return
        self._cache.num_growths += 1
        spare = self._cache.num_spare
        num_slots = spare + _doubled(max(1, self.keys.shape[0] - spare), num_slots - spare)
        length = _doubled(self.keys.shape[2] or FIRST_LENGTH, length)
        self.keys, self.values = _grown(self.keys, num_slots, length), _grown(self.values, num_slots, length)

    # transformers makes its masks from these where none is given: for rows that all stand at the same positions.

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.batch.length, 0

    def get_seq_length(self) -> int:
        return self._cache.batch.length - self._cache.batch.width

    def get_max_length(self) -> int:
        return -1


def _grown(stored: Tensor, num_slots: int, length: int) -> Tensor:
    slots, heads, held, dim = stored.shape
    grown = stored.new_zeros((num_slots, heads, length, dim))
    grown[:slots, :, :held] = stored
    return grown


def _doubled(size: int, needed: int) -> int:
    while size < needed:
        size *= 2
    return size

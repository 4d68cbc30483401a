"""The cache: per layer one K and one V of [slots, heads, length, dim]; rows write at their own lengths.

Trimming a slot moves a number in the slot and touches nothing here: what lies beyond a slot's length is
masked, and overwritten by the next tokens.
"""

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from .window import Window

FIRST_LENGTH = 256


class SlotCache(Cache):
    """What transformers is given as `past_key_values`. `window` says where the tokens of the next call stand."""

    window: Window

    def __init__(self, num_layers: int) -> None:
        self.slot_layers = [SlotLayer(self) for _ in range(num_layers)]
        super().__init__(layers=[*self.slot_layers])

    def clear(self, slot: int) -> None:
        """Forget what overflowed in a slot: a masked NaN is still multiplied by 0."""
        for layer in self.slot_layers:
            if layer.is_initialized and slot < layer.keys.shape[0]:
                layer.keys[slot].zero_()
                layer.values[slot].zero_()


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One attention layer's keys and values, as many slots and positions as were needed so far."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = key_states.new_zeros((0, key_states.shape[1], 0, key_states.shape[3]))
        self.values = value_states.new_zeros((0, value_states.shape[1], 0, value_states.shape[3]))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store [rows, heads, width, dim] each; what the rows' slots hold now, [rows, heads, length, dim] each."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self._cache.window
        if self.keys.shape[0] < window.num_slots or self.keys.shape[2] < window.length:
            self.keys, self.values = _grown(self.keys, window), _grown(self.values, window)
        _store(self.keys, key_states, window)
        _store(self.values, value_states, window)
        return _live(self.keys, window), _live(self.values, window)

    # What a model without a mask takes its own from; rows that do not all stand at the same positions get one.

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.window.length, 0

    def get_seq_length(self) -> int:
        return self._cache.window.length - self._cache.window.width

    def get_max_length(self) -> int:
        return -1


def _grown(stored: Tensor, window: Window) -> Tensor:
    """With room for the window's slots and positions; both double, so that growing costs little in the long run."""
    slots, heads, length, dim = stored.shape
    num_slots = _doubled(slots or 1, window.num_slots)
    grown = stored.new_zeros((num_slots, heads, _doubled(length or FIRST_LENGTH, window.length), dim))
    grown[:slots, :, :length] = stored
    return grown


def _doubled(size: int, needed: int) -> int:
    while size < needed:
        size *= 2
    return size


def _store(stored: Tensor, new: Tensor, window: Window) -> None:
    """Write new [rows, heads, width, dim] at the window's slots and positions."""
    if window.is_even and window.slot_range is not None:
        stored[window.slot_range, :, window.starts[0] : window.length] = new
        return
    rows, columns, slots, positions = window.stored
    stored[slots, :, positions] = new[rows, :, columns]


def _live(stored: Tensor, window: Window) -> Tensor:
    """[rows, heads, length, dim]: a view where the slots are neighbours, else a copy."""
    if window.slot_range is not None:
        return stored[window.slot_range, :, : window.length]
    return stored[:, :, : window.length].index_select(0, window.slot_ids)

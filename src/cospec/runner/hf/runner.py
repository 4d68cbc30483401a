"""HfRunner: feeds ragged batches of tokens to a transformers model and returns the rows asked for."""

import heapq
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...errors import InvalidPrompt
from ..protocol import Feed, Slot, Tokenizer
from .cache import SlotCache
from .forward import Forward, ModelForward
from .graphs import SCRATCH, FixedPlaces, FixedShapes, Shapes
from .window import Window

# A call takes at least as long as about so many tokens in one: it reads all weights, whatever it is fed.
A_CALL_ON_CPU, A_CALL = 48, 512


class HfSlot(Slot):
    """A row of the cache."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.length = 0


class HfRunner:
    """A causal language model with a cache that any of its slots can roll back.

    model: in evaluation mode, on its device. tokenizer: None if prompts are token ids. shapes: whether short calls are
    padded to few shapes, and captured. forward: how the model is called. Whether a model can be run so at all, `load`
    finds out, or `check_supported`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer | None = None,
        shapes: Shapes = Shapes.AS_GIVEN,
        forward: type[Forward] = ModelForward,
    ) -> None:
        config = model.config.get_text_config()
        self.model = model
        self.tokenizer = tokenizer
        self.vocab_size: int = config.vocab_size
        if tokenizer is not None:
            # Columns beyond the tokenizer's entries are padding.
            self.vocab_size = min(self.vocab_size, len(tokenizer.entries()))
        self.context = _context(config)
        self.end_ids = _end_ids(model, tokenizer)
        self.dtype: torch.dtype = model.dtype
        self._device: torch.device = model.device
        self._row_dtype = torch.promote_types(model.dtype, torch.float32)
        num_spare = 0 if shapes is Shapes.AS_GIVEN else SCRATCH + 1
        self._cache = SlotCache(config.num_hidden_layers, num_spare)
        self._forward = forward(model, self._cache)
        self._free: list[int] = []
        self._num_slots = num_spare
        self.fixed: FixedShapes | None = None
        if shapes is not Shapes.AS_GIVEN:
            is_captured = shapes is Shapes.CAPTURED
            self.fixed = FixedShapes(self._fixed_call, self._cache, self._device, is_captured=is_captured)

    @property
    def cache_bytes(self) -> int:
        """Of the keys and values, as allocated so far."""
        return self._cache.num_bytes

    @torch.inference_mode()
    def open(self) -> HfSlot:
        # The lowest, so that live slots stay neighbours.
        if self._free:
            index = heapq.heappop(self._free)
            self._cache.clear(index)
            return HfSlot(index)
        self._num_slots += 1
        return HfSlot(self._num_slots - 1)

    def close(self, slot: Slot) -> None:
        index = _index(slot)
        assert index not in self._free, "a slot is closed once"
        heapq.heappush(self._free, index)

    def trim(self, slot: Slot, length: int) -> None:
        assert 0 <= length <= slot.length, "a slot is trimmed to what it holds"
        slot.length = length

    def feed(self, batch: Sequence[Feed]) -> list[Tensor]:
        self._check(batch)
        rows: dict[int, Tensor] = {}
        a_call = A_CALL_ON_CPU if self._device.type == "cpu" else A_CALL
        for group in _groups(batch, a_call / self._forward.padding):
            # In the order of slots, so that neighbours can be read without a copy.
            group.sort(key=lambda i: _index(batch[i].slot))
            rows.update(zip(group, self._rows([batch[i] for i in group]), strict=True))
        for feed in batch:
            feed.slot.length += len(feed.tokens)
        return [rows[i] for i in range(len(batch))]

    def _check(self, batch: Sequence[Feed]) -> None:
        assert all(feed.tokens and 0 <= feed.rows <= len(feed.tokens) for feed in batch)
        longest = max(feed.slot.length + len(feed.tokens) for feed in batch)
        if self.context is not None and longest > self.context:
            raise InvalidPrompt(f"{longest} tokens do not fit into a context of {self.context}; shorten the text")

    @torch.inference_mode()
    def _rows(self, batch: list[Feed]) -> list[Tensor]:
        window = Window(
            slots=[_index(feed.slot) for feed in batch],
            starts=[feed.slot.length for feed in batch],
            counts=[len(feed.tokens) for feed in batch],
            device=self._device,
        )
        texts = [feed.tokens for feed in batch]
        if self.fixed is not None and self.fixed.can_take(window):
            # The next call overwrites them.
            logits = self._as_rows(self.fixed.logits(window, texts), copy=True)
            return [logits[i, logits.shape[1] - feed.rows :] for i, feed in enumerate(batch)]
        kept = [feed.rows for feed in batch]
        # A call gives a row at least, wanted or not.
        given = kept if any(kept) else [*kept[:-1], 1]
        rows = torch.split(self._as_rows(self._forward(window.padded(texts), window, given)), given)
        return [row[:count] for row, count in zip(rows, kept, strict=True)]

    def _as_rows(self, logits: Tensor, *, copy: bool = False) -> Tensor:
        return logits[..., : self.vocab_size].to(self._row_dtype, copy=copy)

    def _fixed_call(self, places: FixedPlaces) -> Tensor:
        rows, width = places.input_ids.shape
        return self._forward(places.input_ids, places, [width] * rows).view(rows, width, -1)


def _index(slot: Slot) -> int:
    assert isinstance(slot, HfSlot), "a slot of another runner"
    return slot.index


def _groups(batch: Sequence[Feed], a_call: float) -> list[list[int]]:
    """Indices of the feeds that go through the model together, so that padding and calls cost the least in all.

    a_call: what one costs beside its tokens, in tokens of padding.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, feed in enumerate(batch):
        by_length[len(feed.tokens)].append(index)
    lengths = sorted(by_length)
    # For the shortest 0, 1, 2, ... lengths: what they cost at least, in tokens, and where their last group begins.
    cheapest = [(0.0, 0)]
    for stop, longest in enumerate(lengths, start=1):
        counts = [sum(len(by_length[length]) for length in lengths[start:stop]) for start in range(stop)]
        cheapest.append(
            min((cheapest[start][0] + a_call + longest * count, start) for start, count in enumerate(counts))
        )
    groups, stop = [], len(lengths)
    while stop > 0:
        start = cheapest[stop][1]
        groups.append([index for length in lengths[start:stop] for index in by_length[length]])
        stop = start
    return groups[::-1]


def _context(config: object) -> int | None:
    """The most tokens of which each position's embedding is its own, whatever else is in the batch."""
    context: int | None = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        # Beyond the original length it embeds all positions anew, which a cache, or a shorter neighbour, cannot follow.
        return int(rope["original_max_position_embeddings"])
    return context


def _end_ids(model: PreTrainedModel, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    for source in (model.generation_config, model.config.get_text_config()):
        configured = getattr(source, "eos_token_id", None)
        if configured is not None:
            return tuple(configured) if isinstance(configured, list | tuple) else (configured,)
    return tokenizer.end_ids if tokenizer is not None else ()

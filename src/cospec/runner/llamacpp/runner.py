"""LlamaCppRunner: a GGUF file in llama.cpp, behind the Runner protocol."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import InvalidPrompt
from ..protocol import Feed, Slot, Tokenizer
from .context import Context, Piece


class LlamaSlot(Slot):
    """One sequence of the context."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.length = 0


class LlamaCppRunner:
    """A file that llama.cpp computes, with its own context.

    Rows are llama.cpp's logits, as float32. dtype: what its keys and values are rounded to. tie_gap: products of
    quantised weights round what they are given too, to 8 bits, so that a row depends on what else is fed; with Q4_1
    best tokens whose log-probabilities were .37 apart have changed places, and twice that is put down to it.
    """

    numerics = "default"
    copies = True
    dtype = torch.float16
    tie_gap = 0.75

    def __init__(self, context: Context, tokenizer: Tokenizer | None, end_ids: Sequence[int]) -> None:
        weights = context.weights
        self.store = context
        self.tokenizer = tokenizer
        self.vocab_size = weights.num_entries
        if tokenizer is not None:
            # Columns beyond the tokenizer's entries are padding.
            self.vocab_size = min(weights.num_entries, len(tokenizer.entries()))
        self.context: int | None = weights.context
        own_ends = () if tokenizer is None else tokenizer.end_ids
        self.end_ids = (*dict.fromkeys((*end_ids, *own_ends)),)

    @property
    def device(self) -> str:
        return self.store.weights.device

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values, as allocated so far."""
        return self.store.num_bytes

    @property
    def storages(self) -> dict[int, int]:
        """Bytes of what it holds of weights, by storage: the file's, and an adapter's."""
        weights, adapter = self.store.weights, self.store.adapter
        held = {id(weights): weights.num_bytes}
        return held if adapter is None else held | {id(adapter): adapter.num_bytes}

    def open(self) -> LlamaSlot:
        return LlamaSlot(self.store.open())

    def feed(self, batch: Sequence[Feed]) -> list[Tensor]:
        assert all(feed.tokens and 0 <= feed.rows <= len(feed.tokens) for feed in batch)
        longest = max(feed.slot.length + len(feed.tokens) for feed in batch)
        if self.context is not None and longest > self.context:
            raise InvalidPrompt(f"{longest} tokens do not fit into a context of {self.context}; shorten the text")
        pieces = [Piece(_sequence(feed.slot), feed.slot.length, feed.tokens, feed.rows) for feed in batch]
        rows = self.store.rows(pieces)
        for feed in batch:
            feed.slot.length += len(feed.tokens)
        is_padded = self.vocab_size < self.store.weights.num_entries
        return [each[:, : self.vocab_size] for each in rows] if is_padded else rows

    def trim(self, slot: Slot, length: int) -> None:
        assert 0 <= length <= slot.length, "a slot is trimmed to what it holds"
        if length < slot.length:
            self.store.cut(_sequence(slot), length)
            slot.length = length

    def copy(self, source: Slot, slot: Slot, length: int) -> None:
        """Let an empty slot hold the first `length` tokens of another one, in the same cells."""
        assert slot.length == 0, "what was read is copied to an empty slot"
        assert length <= source.length, "what was read is copied"
        self.store.copy(_sequence(source), _sequence(slot), length)
        slot.length = length

    def close(self, slot: Slot) -> None:
        self.store.close(_sequence(slot))


def _sequence(slot: Slot) -> int:
    assert isinstance(slot, LlamaSlot), "a slot of another runner"
    return slot.sequence

"""A runner of a base with an adapter: a view of the base's own, in whose forward passes it takes part."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..protocol import Feed, KeptStates, Slot, Tokenizer
from .adapter import Adapter
from .runner import HfRunner


class AdaptedRunner:
    """The base's runner, whose slots are opened for one of its adapters. It may be fed beside the base's other views.

    served_by: the base's runner. tokenizer: the adapter's own, or the base's. end_ids: the base's, and the tokenizer's.
    acceptance: see Runner.
    """

    acceptance: float | None = None

    def __init__(self, base: HfRunner, adapter: Adapter, tokenizer: Tokenizer | None) -> None:
        assert adapter in base.adapters, "an adapter of this base"
        self.served_by = base
        self.adapter = adapter
        self.tokenizer = tokenizer or base.tokenizer
        entries = base.vocab_size if self.tokenizer is None else len(self.tokenizer.entries())
        self.vocab_size = min(base.vocab_size, entries)
        self.context = base.context
        own_ends = () if self.tokenizer is None else self.tokenizer.end_ids
        self.end_ids = (*dict.fromkeys((*base.end_ids, *own_ends)),)
        self.dtype: torch.dtype = base.dtype

    @property
    def vocabulary(self) -> Sequence[int] | None:
        """The tokens that the base's head was cut to; None for all."""
        return self.served_by.vocabulary

    @property
    def numerics(self) -> str:
        return self.served_by.numerics

    @property
    def state_size(self) -> int:
        return self.served_by.state_size

    def keep_states(self, slot: Slot) -> KeptStates:
        return self.served_by.keep_states(slot)

    @property
    def copies(self) -> bool:
        return self.served_by.copies

    def copy(self, source: Slot, slot: Slot, length: int) -> None:
        self.served_by.copy(source, slot, length)

    def open(self) -> Slot:
        return self.served_by.open(1 + self.served_by.adapters.index(self.adapter))

    def feed(self, batch: Sequence[Feed]) -> list[Tensor]:
        return [rows[:, : self.vocab_size] for rows in self.served_by.feed(batch)]

    def trim(self, slot: Slot, length: int) -> None:
        self.served_by.trim(slot, length)

    def close(self, slot: Slot) -> None:
        self.served_by.close(slot)

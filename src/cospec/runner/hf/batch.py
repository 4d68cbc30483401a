"""The layout of one forward pass: which slots its rows belong to, and at which positions their tokens stand."""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from .invariant import Blocks, chunk_end
from .lowrank import RowAdapters


class ForwardBatch(Protocol):
    """What the cache and the masks must know of the tokens of a forward pass.

    width: tokens of a row, padding included. length: positions that a row attends to at most. num_slots: slots that the
    cache must have. position_ids: [rows, width]. tokens: row and column of each token that is not padding, [tokens]
    each; None where padding is computed like any token, or there is none. adapters: of each row, None where none has
    one. blocks: the shapes that the pass keeps to, None for its own.
    """

    @property
    def width(self) -> int: ...

    @property
    def length(self) -> int: ...

    @property
    def num_slots(self) -> int: ...

    @property
    def position_ids(self) -> Tensor: ...

    @property
    def tokens(self) -> tuple[Tensor, Tensor] | None: ...

    @property
    def adapters(self) -> RowAdapters | None: ...

    @property
    def blocks(self) -> Blocks | None: ...

    def is_causal(self, sliding_window: int | None = None) -> bool:
        """Whether attention without a mask attends to what it should."""
        ...

    def write(self, stored: Tensor, new: Tensor) -> None:
        """Put new [rows, heads, width, dim] into stored [slots, heads, positions, dim]."""
        ...

    def read(self, stored: Tensor) -> Tensor:
        """The rows' slots, [rows, heads, length, dim]."""
        ...


class RaggedBatch:
    """Rows of unequal length, one a slot, aligned to the right: padding stands on the left and is never stored.

    slots, starts, counts: [rows]; a row's tokens stand at positions start .. start + count - 1 of its slot. Attention
    reads up to the longest live row, not the whole allocation; with blocks, to the end of its last chunk of positions.
    is_even: all rows stand at the same positions. slot_range: the slots as a slice where they are consecutive, so that
    reading them copies nothing. adapters: each row's, 0 for none; none by default.
    """

    # What every pass needs is computed at once: a small model's pass takes little longer than a cached property.
    def __init__(
        self,
        *,
        slots: Sequence[int],
        starts: Sequence[int],
        counts: Sequence[int],
        device: torch.device,
        adapters: Sequence[int] = (),
        blocks: Blocks | None = None,
    ) -> None:
        self.slots, self.starts, self.counts, self.device = slots, starts, counts, device
        self.blocks = blocks
        self.adapter_ids = adapters or [0] * len(slots)
        self.adapters = RowAdapters.of(self.adapter_ids, device, is_each=blocks is not None)
        self.width = max(counts)
        self._stop = max(start + count for start, count in zip(starts, counts, strict=True))
        self.length = self._stop if blocks is None else chunk_end(self._stop)
        self.num_slots = max(slots) + 1
        self.is_even = min(starts) == max(starts) and min(counts) == self.width
        consecutive = range(slots[0], slots[0] + len(slots))
        self.slot_range = slice(consecutive.start, consecutive.stop) if list(slots) == list(consecutive) else None

    def padded(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """[rows, width]: each row's numbers, with zeros on their left."""
        return torch.tensor([[0] * (self.width - len(row)) + list(row) for row in rows], device=self.device)

    @cached_property
    def position_ids(self) -> Tensor:
        """[rows, width]; padding stands at position 0."""
        return self.padded([range(start, start + n) for start, n in zip(self.starts, self.counts, strict=True)])

    @cached_property
    def slot_ids(self) -> Tensor:
        return torch.tensor(self.slots, device=self.device)

    @cached_property
    def stored(self) -> Tensor:
        """[4, tokens]: row, column, slot and position of each token that is not padding."""
        starts, counts = torch.tensor(self.starts), torch.tensor(self.counts)
        rows = torch.arange(len(counts)).repeat_interleave(counts)
        offsets = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
        columns, positions = offsets + (self.width - counts)[rows], offsets + starts[rows]
        return torch.stack((rows, columns, torch.tensor(self.slots)[rows], positions)).to(self.device)

    @property
    def tokens(self) -> tuple[Tensor, Tensor] | None:
        """Row and column of each token; None where no row is padded."""
        if min(self.counts) == self.width:
            return None
        rows, columns, _, _ = self.stored
        return rows, columns

    def is_causal(self, sliding_window: int | None = None) -> bool:
        """Whether each token attends to all tokens before it, and attention without a mask computes that.

        Without a mask the first query is taken to stand at the first key, and a single query attends to all keys.
        """
        is_whole = self.blocks is None and self.is_even and (self.width == 1 or self.length == self.width)
        return is_whole and (sliding_window is None or self.length <= sliding_window)

    def write(self, stored: Tensor, new: Tensor) -> None:
        if self.is_even and self.slot_range is not None:
            stored[self.slot_range, :, self.starts[0] : self._stop] = new
            return
        rows, columns, slots, positions = self.stored
        stored[slots, :, positions] = new[rows, :, columns]

    def read(self, stored: Tensor) -> Tensor:
        """A view where the slots are consecutive, else a copy."""
        if self.slot_range is not None:
            return stored[self.slot_range, :, : self.length]
        return stored[:, :, : self.length].index_select(0, self.slot_ids)

"""Where the recurrent states of slots stand, and what one forward pass has to do to them.

A recurrent state cannot be trimmed. So beside the current one a slot keeps a snapshot of it, from a position that is
settled, and what each layer was given since (`states`): after a rollback the snapshot is advanced by what stood. No
token is fed again, unless a rollback goes behind the snapshot.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .batch import RaggedBatch

# A row of more tokens than this has its snapshot moved into it, behind what is settled of it.
LONGEST_BLOCK = 24
# The most tokens behind a snapshot. Drafts that are fed one by one add up.
CAPACITY = 48
# Tokens of an update that advances a snapshot by what stood: the next of these, so that its width, and so its rounding,
# does not depend on what stood of other rows.
RESTORED = (4, 8, 16, CAPACITY)
# In a pass of one row, so many tokens that stood behind its snapshot are computed again together with what is fed,
# which takes less time than an update of their own, and the snapshot stays. Behind more of them it moves, so that they
# do not become many. In a pass of several rows one's rejection would change another's rounding by that.
FEW = 8


class Held(NamedTuple):
    """What a slot holds: tokens that went into its snapshot and into its current state, and which of its two places the
    snapshot is in; the current state is in the other."""

    snapshot: int = 0
    current: int = 0
    place: int = 0


class StateLedger:
    """What the slots hold. block, capacity: as LONGEST_BLOCK and CAPACITY."""

    def __init__(self, block: int = LONGEST_BLOCK, capacity: int = CAPACITY) -> None:
        self._held: dict[int, Held] = {}
        self._block, self._capacity = block, capacity

    def forget(self, slot: int) -> None:
        """The slot's next tokens are the first of a text."""
        self._held.pop(slot, None)

    def start(self, slot: int, length: int) -> int:
        """From which position a slot of so many tokens must be fed: `length`, or 0 where its state there is lost."""
        held = self._held.get(slot)
        if held is not None and held.snapshot <= length <= held.current:
            return length
        self.forget(slot)
        return 0

    def plan(self, batch: RaggedBatch, settled: Sequence[int]) -> "StatePlan":
        """The plan of a pass. settled: of each row, how many of its slot's tokens are never taken back. Until the plan
        is committed the slots hold nothing: a pass that raised has changed some layers' states and not others'."""
        held = [self._held.pop(slot, None) for slot in batch.slots]
        return StatePlan(batch, held, settled, self._block, self._capacity)

    def commit(self, plan: "StatePlan") -> None:
        """The pass is done."""
        self._held.update(zip(plan.batch.slots, plan.after, strict=True))


class StatePlan:
    """What one forward pass does to the states of its slots.

    before: of each row, None for a slot whose text begins. after: of each row, once it is fed. Rows are `deep` if their
    snapshot will stand within what they are fed, `back` tokens before its end.
    """

    def __init__(
        self, batch: RaggedBatch, before: Sequence[Held | None], settled: Sequence[int], block: int, capacity: int
    ) -> None:
        self.batch, self.capacity = batch, capacity
        self.after: list[Held] = []
        self._fresh = [slot for slot, held in zip(batch.slots, before, strict=True) if held is None]
        self._restored: list[tuple[int, int, int]] = []
        self._moved: list[tuple[int, int, int]] = []
        self._deep: list[tuple[int, int, int]] = []
        # Tokens behind the snapshot in front of what a row is fed: as it was, and as it will be.
        self._offsets: list[int] = []
        self._new_offsets: list[int] = []
        # Which of a slot's two places its state is read from, and written to.
        self._sources: list[int] = []
        spans = list(zip(batch.starts, batch.counts, settled, strict=True))
        unsettled = [start + count - until for start, count, until in spans if count > block]
        self.back = min(capacity, max(1, *unsettled)) if unsettled else capacity
        for row, (slot, (start, count, until)) in enumerate(zip(batch.slots, spans, strict=True)):
            held = before[row] or Held()
            offset, is_back = start - held.snapshot, held.current != start
            is_deep = count > max(block, self.back)
            may_stay = is_back and offset <= FEW and len(spans) == 1
            # What is not settled, and does not fit behind the snapshot, is fed again if it is taken back.
            moves = is_deep or offset + count > capacity or (start <= until and not may_stay)
            place = 1 - held.place if moves and not is_back else held.place
            snapshot = start + count - self.back if is_deep else start if moves else held.snapshot
            if is_back and offset:
                self._restored.append((row, slot, offset))
                if moves and not is_deep:
                    self._moved.append((row, slot, place))
            if is_deep:
                self._deep.append((row, slot, place))
            self._sources.append(held.place if is_back else 1 - held.place)
            self._offsets.append(offset)
            self._new_offsets.append(0 if moves else offset)
            self.after.append(Held(snapshot, start + count, place))
        self._written: dict[int, Tensor] = {}

    @cached_property
    def only(self) -> tuple[int, int, int, int] | None:
        """Slot, both offsets and number of tokens of the only row; None where there are others, or the row is deep.
        Slices of it copy nothing."""
        if len(self.after) > 1 or self._deep:
            return None
        return self.batch.slots[0], self._offsets[0], self._new_offsets[0], self.batch.counts[0]

    @cached_property
    def fresh(self) -> Tensor | None:
        """Slots whose text begins."""
        return self._index(self._fresh) if self._fresh else None

    @cached_property
    def restored(self) -> list[tuple[int, Tensor, Tensor, Tensor]]:
        """By the width of their updates, rows that were rolled back, their slots, and how many tokens behind the
        snapshot stood."""
        by_width: dict[int, list[tuple[int, int, int]]] = {}
        for each in self._restored:
            width = min(self.capacity, next(width for width in RESTORED if width >= each[2]))
            by_width.setdefault(width, []).append(each)
        return [(width, *self._index(rows).T) for width, rows in by_width.items()]

    @cached_property
    def num_joined(self) -> int:
        """How many tokens, which stood behind the snapshot of the only row, are computed again with what it is fed."""
        return self._offsets[0] if self.only and self._restored and not self._moved else 0

    @cached_property
    def moved(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Rows whose restored state is the new snapshot, their slots, and its place."""
        return self._columns(self._moved)

    @cached_property
    def deep(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Rows whose snapshot will be the state before their last `back` tokens, their slots, and its place."""
        return self._columns(self._deep)

    @property
    def source(self) -> int:
        """That of the first row."""
        return self._sources[0]

    @cached_property
    def sources(self) -> Tensor:
        """[rows]: in which of a slot's places the state is that a row begins with, or is restored from."""
        return self._index(self._sources)

    @cached_property
    def targets(self) -> Tensor:
        """[rows]: in which place its state will be."""
        return self._index([1 - held.place for held in self.after])

    @cached_property
    def offsets(self) -> Tensor:
        """[rows]: tokens between the snapshot, as it was, and what a row is fed."""
        return self._index(self._offsets)

    @cached_property
    def num_padding(self) -> Tensor:
        """[rows]: columns to the left of a row's tokens."""
        return self._index([self.batch.width - count for count in self.batch.counts])

    @cached_property
    def padding(self) -> Tensor | None:
        """[rows, width], true where there is no token; None where there is one everywhere."""
        if min(self.batch.counts) == self.batch.width:
            return None
        return torch.arange(self.batch.width, device=self.batch.device) < self.num_padding[:, None]

    def written(self, lead: int) -> Tensor:
        """[4, tokens]: of each token of a row that is not deep, and the `lead` before them, its row and column in
        values [rows, lead + width], and its slot and place in what is kept of that."""
        if lead not in self._written:
            deep = {row for row, _, _ in self._deep}
            spans = zip(self.batch.slots, self.batch.counts, self._new_offsets, strict=True)
            tokens = [
                (row, self.batch.width - count + i, slot, offset + i)
                for row, (slot, count, offset) in enumerate(spans)
                if row not in deep
                for i in range(lead + count)
            ]
            self._written[lead] = self._index(tokens).view(-1, 4).T
        return self._written[lead]

    def _index(self, numbers: Sequence[object]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self.batch.device)

    def _columns(self, rows: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor, Tensor] | None:
        if not rows:
            return None
        first, second, third = self._index(rows).T
        return first, second, third

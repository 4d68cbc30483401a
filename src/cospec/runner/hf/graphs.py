"""Short forward passes in few shapes, so that CUDA graphs can replay them.

A small batch's time goes into launching kernels one by one, which a graph does at once. A pass of up to `WIDEST` tokens
a row is padded to a power of two of rows and of tokens, and attends to a power of two of positions. Padding is written
to a slot of its own. Inputs stand at fixed addresses, and so does the cache until it grows.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from .batch import RaggedBatch
from .cache import SlotCache
from .lowrank import RowAdapters

WIDEST = 16
FEWEST_POSITIONS = 128
# Allocated at once, so that few graphs are dropped as texts grow.
FIRST_POSITIONS = 256
# The slot whose first position padding is written to.
SCRATCH = 0
# A shape is captured once it has recurred this often: capturing takes about as long as a few passes.
NUM_UNCAPTURED = 4

Passed = tuple[Tensor, Tensor | None]
"""Logits [rows, width, vocab], and hidden states [rows, width, hidden] where they are handed out."""


class Shapes(Enum):
    """AS_GIVEN: each pass in its own shape. FIXED: short passes in few shapes. CAPTURED: those as CUDA graphs too."""

    AS_GIVEN = "as given"
    FIXED = "fixed"
    CAPTURED = "captured"


@dataclass(frozen=True)
class Shape:
    """What passes must have in common to be one graph.

    is_leading: the rows are the first slots behind the scratch slot, in order, and can be read without a copy.
    """

    rows: int
    width: int
    length: int
    is_leading: bool


def shape_of(batch: RaggedBatch) -> Shape:
    """The smallest shape that holds the batch."""
    first = SCRATCH + 1
    return Shape(
        rows=_power_of_two(len(batch.slots)),
        width=_power_of_two(batch.width),
        length=max(FEWEST_POSITIONS, _power_of_two(batch.length)),
        is_leading=list(batch.slots) == list(range(first, first + len(batch.slots))),
    )


class FixedBatch:
    """The layout of a pass of one shape. Its tensors are filled in anew before each pass, and never move."""

    def __init__(self, shape: Shape, device: torch.device, *, has_adapters: bool = False) -> None:
        self.width, self.length = shape.width, shape.length
        self._leading = slice(SCRATCH + 1, SCRATCH + 1 + shape.rows) if shape.is_leading else None
        self._inputs = torch.zeros((3, shape.rows, shape.width), dtype=torch.int64, device=device)
        self._adapter_ids = torch.zeros(shape.rows, dtype=torch.int64, device=device)
        self._has_adapters = has_adapters
        # Each [rows, width]; all three are zero for padding, which is SCRATCH's first position.
        self.input_ids, self.position_ids, self._slots = self._inputs

    @property
    def num_slots(self) -> int:
        """As many as are read as consecutive ones; `FixedShapes.run` makes room for any other slot."""
        return self._leading.stop if self._leading is not None else SCRATCH + 1

    def fill(self, batch: RaggedBatch, tokens: Sequence[Sequence[int]]) -> None:
        """Take over the batch's tokens, aligned to the right. One copy to the device, whatever the shape."""
        spans = list(zip(batch.slots, batch.starts, batch.counts, strict=True))
        positions = [range(start, start + count) for _, start, count in spans]
        slots = [[slot] * count for slot, _, count in spans]
        self._inputs.copy_(torch.tensor([self._padded(rows) for rows in (tokens, positions, slots)]))
        if self._has_adapters:
            self._adapter_ids[: len(spans)].copy_(torch.tensor(batch.adapter_ids))

    def _padded(self, rows: Sequence[Sequence[int]]) -> list[list[int]]:
        missing = self._inputs.shape[1] - len(rows)
        return [[0] * (self.width - len(row)) + list(row) for row in (*rows, *[()] * missing)]

    @property
    def tokens(self) -> None:
        # Padding is computed like any token: the number of tokens would be one more property of a shape.
        return None

    @property
    def blocks(self) -> None:
        return None

    @property
    def adapters(self) -> RowAdapters | None:
        # Made anew for each pass, whose masks it keeps.
        return RowAdapters(self._adapter_ids) if self._has_adapters else None

    def is_causal(self, sliding_window: int | None = None) -> bool:
        return False

    def write(self, stored: Tensor, new: Tensor) -> None:
        stored[self._slots, :, self.position_ids] = new.transpose(1, 2)

    def read(self, stored: Tensor) -> Tensor:
        if self._leading is not None:
            # A row of padding reads a slot that is another's or free; what is computed for it is dropped.
            return stored[self._leading, :, : self.length]
        return stored[:, :, : self.length].index_select(0, self._slots[:, -1])


class FixedShapes:
    """A model's short forward passes, one `FixedPass` a shape.

    forward: the pass of a batch. is_captured: whether passes that recur become CUDA
    graphs; growth of the cache drops the existing ones, which refer to its old addresses.
    """

    def __init__(
        self,
        forward: Callable[[FixedBatch], Passed],
        cache: SlotCache,
        device: torch.device,
        *,
        is_captured: bool,
    ) -> None:
        self._forward = forward
        self._cache = cache
        self._device = device
        self._is_captured = is_captured
        self._passes: dict[Shape, FixedPass] = {}
        self._has_adapters = False
        self.reset()

    @property
    def num_captured(self) -> int:
        """Graphs alive."""
        return sum(each.is_captured for each in self._passes.values())

    def can_take(self, batch: RaggedBatch) -> bool:
        """Whether the batch is short, and the cache was allocated by a pass before it."""
        return batch.width <= WIDEST and self._cache.is_allocated

    def run(self, batch: RaggedBatch, tokens: Sequence[Sequence[int]]) -> Passed:
        """Of the batch's rows, whose tokens are the last columns. The next pass overwrites it."""
        shape = shape_of(batch)
        num_slots = max(batch.num_slots, SCRATCH + 1 + shape.rows if shape.is_leading else 0)
        self._cache.reserve(num_slots, max(shape.length, FIRST_POSITIONS))
        if self._cache.num_growths != self._num_growths:
            self.reset()
        if shape not in self._passes:
            empty = FixedBatch(shape, self._device, has_adapters=self._has_adapters)
            self._passes[shape] = FixedPass(empty, self._forward, self._recorder)
        fixed = self._passes[shape]
        fixed.batch.fill(batch, tokens)
        logits, states = fixed()
        return logits[: len(tokens)], None if states is None else states[: len(tokens)]

    def adapt(self) -> None:
        """Rows may have adapters from now on, other ones than before."""
        self._has_adapters = True
        self.reset()

    def reset(self) -> None:
        """Drop the passes that were captured."""
        self._passes.clear()
        self._num_growths = self._cache.num_growths
        # The memory pool of graphs that were dropped cannot be used for others, so each recorder has its own.
        self._recorder = GraphRecorder(self._device) if self._is_captured else None


class FixedPass:
    """The forward pass of one shape, captured once it has recurred, if there is a recorder."""

    def __init__(
        self, batch: FixedBatch, forward: Callable[[FixedBatch], Passed], recorder: "GraphRecorder | None"
    ) -> None:
        self.batch = batch
        self._forward = forward
        self._recorder = recorder
        self._num_runs = 0
        self._replay: Callable[[], Passed] | None = None

    @property
    def is_captured(self) -> bool:
        return self._replay is not None

    def __call__(self) -> Passed:
        """That of the batch as it is filled in now."""
        if self._replay is None and self._recorder is not None and self._num_runs >= NUM_UNCAPTURED:
            self._replay = self._recorder.record(lambda: self._forward(self.batch))
        self._num_runs += 1
        return self._replay() if self._replay is not None else self._forward(self.batch)


class GraphRecorder:
    """Captures forward passes on one device. Their graphs share memory, so that a result lasts until the next pass."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], Passed]) -> Callable[[], Passed]:
        """Capture `work`, after a run of it as warm-up; a function that replays it and returns its result.

        Raises RuntimeError if it waits for a number from the device, which no graph can.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream), _synchronisation_refused():
                work()
            torch.cuda.current_stream().wait_stream(self._stream)
            # "thread_local": another thread may be decoding with another model, which does not disturb the capture.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                result = work()

        def replay() -> Passed:
            graph.replay()
            return result

        return replay


@contextmanager
def _synchronisation_refused() -> Iterator[None]:
    """A wait for the device raises, before a capture does: a failed capture leaves the device's random generator
    unusable."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        # torch warns that this mode may miss some synchronisations.
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _power_of_two(count: int) -> int:
    """The least power of two that is at least `count`."""
    return 1 << (count - 1).bit_length()

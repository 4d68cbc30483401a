"""Short calls in few shapes, so that CUDA can replay them: a small batch is bound by launching kernels one by one.

A call of up to `WIDEST` tokens a row is padded to a power of two of rows and of tokens, and looks at a power of two of
positions. What pads it is written to a slot of its own. Its inputs stand at fixed addresses, and so does the cache
until it grows.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from .cache import SlotCache
from .window import Window

WIDEST = 16
FEWEST_POSITIONS = 128
# Padding stands at this slot's first position.
SCRATCH = 0
# Capturing costs about as much as a few calls: a shape that comes seldom is not worth it.
NUM_UNCAPTURED = 4


class Shapes(Enum):
    """AS_GIVEN: each call in its own shape. FIXED: short calls in few shapes. CAPTURED: and as CUDA graphs."""

    AS_GIVEN = "as given"
    FIXED = "fixed"
    CAPTURED = "captured"


@dataclass(frozen=True)
class Shape:
    """What calls must have in common to be one graph.

    is_leading: the rows are the first slots behind the scratch slot, in order, and can be read without a copy.
    """

    rows: int
    width: int
    length: int
    is_leading: bool


def shape_of(window: Window) -> Shape:
    """The smallest that holds the window."""
    first = SCRATCH + 1
    return Shape(
        rows=_power_of_two(len(window.slots)),
        width=_power_of_two(window.width),
        length=max(FEWEST_POSITIONS, _power_of_two(window.length)),
        is_leading=list(window.slots) == list(range(first, first + len(window.slots))),
    )


class FixedPlaces:
    """The places of a call of one shape. What it is made of is filled in anew before each call, and never moves."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.width, self.length = shape.width, shape.length
        self._leading = slice(SCRATCH + 1, SCRATCH + 1 + shape.rows) if shape.is_leading else None
        self._inputs = torch.zeros((3, shape.rows, shape.width), dtype=torch.int64, device=device)
        # Each [rows, width]; all of them are zero for padding, which is SCRATCH's first position.
        self.input_ids, self.position_ids, self._slots = self._inputs

    @property
    def num_slots(self) -> int:
        """As many as are read as neighbours; whoever fills this in makes room for any other slot."""
        return self._leading.stop if self._leading is not None else SCRATCH + 1

    def fill(self, window: Window, texts: Sequence[Sequence[int]]) -> None:
        """Take the window's tokens, aligned to the right. One copy, whatever the shape."""
        spans = list(zip(window.slots, window.starts, window.counts, strict=True))
        positions = [range(start, start + count) for _, start, count in spans]
        slots = [[slot] * count for slot, _, count in spans]
        self._inputs.copy_(torch.tensor([self._padded(rows) for rows in (texts, positions, slots)]))

    def _padded(self, rows: Sequence[Sequence[int]]) -> list[list[int]]:
        missing = self._inputs.shape[1] - len(rows)
        return [[0] * (self.width - len(row)) + list(row) for row in (*rows, *[()] * missing)]

    @property
    def tokens(self) -> None:
        # Padding is computed as well: how many tokens there are would be a shape more.
        return None

    def is_causal(self, sliding_window: int | None = None) -> bool:
        return False

    def write(self, stored: Tensor, new: Tensor) -> None:
        stored[self._slots, :, self.position_ids] = new.transpose(1, 2)

    def read(self, stored: Tensor) -> Tensor:
        if self._leading is not None:
            # A row of padding reads a slot that is another's or no one's; nobody looks at what comes of it.
            return stored[self._leading, :, : self.length]
        return stored[:, :, : self.length].index_select(0, self._slots[:, -1])


class FixedShapes:
    """A model's short calls, one `Call` a shape.

    forward: the call at these places, -> logits [rows, width, vocab]. is_captured: whether calls that recur become CUDA
    graphs; the cache's growth drops those there are, since they know its addresses.
    """

    def __init__(
        self,
        forward: Callable[[FixedPlaces], Tensor],
        cache: SlotCache,
        device: torch.device,
        *,
        is_captured: bool,
    ) -> None:
        self._forward = forward
        self._cache = cache
        self._device = device
        self._is_captured = is_captured
        self._calls: dict[Shape, Call] = {}
        self._forget()

    @property
    def num_captured(self) -> int:
        """Graphs alive."""
        return sum(call.is_captured for call in self._calls.values())

    def can_take(self, window: Window) -> bool:
        """Whether the call is short; and none can be before the first, which tells what the cache must hold."""
        return window.width <= WIDEST and self._cache.is_laid_out

    def logits(self, window: Window, texts: Sequence[Sequence[int]]) -> Tensor:
        """[rows, width, vocab] of the window's rows, the last columns being theirs. The next call overwrites them."""
        shape = shape_of(window)
        num_slots = max(window.num_slots, SCRATCH + 1 + shape.rows if shape.is_leading else 0)
        self._cache.reserve(num_slots, shape.length)
        if self._cache.num_growths != self._num_growths:
            self._forget()
        if shape not in self._calls:
            self._calls[shape] = Call(FixedPlaces(shape, self._device), self._forward, self._recorder)
        call = self._calls[shape]
        call.places.fill(window, texts)
        return call()[: len(texts)]

    def _forget(self) -> None:
        self._calls.clear()
        self._num_growths = self._cache.num_growths
        # A pool of memory whose graphs are gone cannot be used for others.
        self._recorder = Recorder(self._device) if self._is_captured else None


class Call:
    """The forward call of one shape, captured once it has recurred, if there is a recorder."""

    def __init__(
        self, places: FixedPlaces, forward: Callable[[FixedPlaces], Tensor], recorder: "Recorder | None"
    ) -> None:
        self.places = places
        self._forward = forward
        self._recorder = recorder
        self._num_runs = 0
        self._graph: Graph | None = None

    @property
    def is_captured(self) -> bool:
        return self._graph is not None

    def __call__(self) -> Tensor:
        """Logits at the places, as they are filled in now."""
        if self._graph is None and self._recorder is not None and self._num_runs >= NUM_UNCAPTURED:
            self._graph = self._recorder.record(lambda: self._forward(self.places))
        self._num_runs += 1
        return self._graph.replay() if self._graph is not None else self._forward(self.places)


@dataclass(frozen=True)
class Graph:
    """Kernels recorded once, and where they leave their result."""

    graph: torch.cuda.CUDAGraph
    result: Tensor

    def replay(self) -> Tensor:
        self.graph.replay()
        return self.result


class Recorder:
    """Captures calls on one device. Their graphs share memory, so that a result lasts until the next call."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], Tensor]) -> Graph:
        """Raises RuntimeError if the work asks the device for a number, which no graph can. Runs it, to warm up."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream), _synchronisation_refused():
                work()
            torch.cuda.current_stream().wait_stream(self._stream)
            # Other threads may be decoding with another model, and what they do is their own business.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                result = work()
        return Graph(graph, result)


@contextmanager
def _synchronisation_refused() -> Iterator[None]:
    """Found out before capturing: a capture that fails leaves the device's random generator unusable."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        # It warns that it may miss some.
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _power_of_two(count: int) -> int:
    """The least that is not below."""
    return 1 << (count - 1).bit_length()

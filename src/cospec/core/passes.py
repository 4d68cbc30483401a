"""The forward passes of one round, one for each runner: one after the other, or side by side."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor

from ..errors import CospecError, MemberFailed
from ..runner import Feed, Runner
from .faults import isolate_failures

# A single sequence's passes are worth a thread from so many tokens on.
MANY_TOKENS = 64


@dataclass
class Fed:
    """What one feed got: its rows, and the forward pass that it was part of, which several feeds share."""

    rows: Tensor
    forward: "ForwardPass"


@dataclass(eq=False)
class ForwardPass:
    """One forward pass. num_tokens, num_feeds: of all feeds in it together. seconds: its own; of passes side by side
    its part of what all took together, so that they add up to it."""

    num_tokens: int
    num_feeds: int
    seconds: float


Outcome = Fed | CospecError


class PassItem(NamedTuple):
    """One feed of a forward pass. name: the member's, for errors. length: tokens that its slot must hold before."""

    name: str
    feed: Feed
    length: int


Batch = tuple[Runner, Sequence[PassItem]]
"""A runner, and what is to be fed to it in one forward pass."""


class Passes:
    """Runs forward passes, up to `num_at_once` of them side by side, each in a thread of its own.

    Threads within torch's operations wait for each other at every operation; members wait for each other once a round.
    """

    def __init__(
        self, num_at_once: int = 1, on_retry: Callable[[PassItem, int, Exception], None] | None = None
    ) -> None:
        self._pool = ThreadPoolExecutor(num_at_once, thread_name_prefix="cospec-forward") if num_at_once > 1 else None
        self._on_retry = on_retry or (lambda item, count, error: None)

    def run(self, batches: Sequence[Batch]) -> list[list[Outcome]]:
        """One outcome for each feed of each batch, in their order; no two batches have the same runner.

        Where a pass raises, its feeds are tried one by one, so that an error is that of the feed that causes it.
        """
        if self._pool is None or len(batches) == 1 or not _is_worth_threads(batches):
            return [self._run(batch) for batch in batches]
        started = time.perf_counter()
        outcomes = list(self._pool.map(self._run, batches))
        passes = {id(each.forward): each.forward for own in outcomes for each in own if isinstance(each, Fed)}
        if passes:
            part = (time.perf_counter() - started) / sum(forward.seconds for forward in passes.values())
            for forward in passes.values():
                forward.seconds *= part
        return outcomes

    def _run(self, batch: Batch) -> list[Outcome]:
        runner, items = batch
        forwarded = isolate_failures(partial(_forward, runner), items, lambda item: item.name, self._on_retry)
        # An outcome may itself be an error: rows that are not what was asked for.
        return [*forwarded]

    def close(self) -> None:
        """Give the threads back."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)


def _is_worth_threads(batches: Sequence[Batch]) -> bool:
    """Whether there are several sequences, or many tokens: short passes hold each other up between their operations."""
    feeds = [item.feed for _, items in batches for item in items]
    return len(feeds) > len(batches) or sum(len(feed.tokens) for feed in feeds) >= MANY_TOKENS


def _forward(runner: Runner, items: Sequence[PassItem]) -> list[Outcome]:
    """One forward pass of all items."""
    # A runner that raised after it had changed slots must not be fed the same tokens again.
    for item in items:
        if error := _length_error(item, item.length):
            raise error
    started = time.perf_counter()
    try:
        rows = runner.feed([item.feed for item in items])
    except CospecError as error:
        # Like any other error of a runner, it is told with the member's name.
        raise MemberFailed(f"{items[0].name} raised {type(error).__name__}: {error}") from None
    seconds = time.perf_counter() - started
    if len(rows) != len(items):
        # The slots have changed, and which feed is missing is unknown.
        return [
            MemberFailed(f"{item.name} answered {len(items)} feeds with {len(rows)} tensors of rows") for item in items
        ]
    forward = ForwardPass(sum(len(item.feed.tokens) for item in items), len(items), seconds)
    return [
        _row_error(runner, item, own) or _length_error(item, item.length + len(item.feed.tokens)) or Fed(own, forward)
        for item, own in zip(items, rows, strict=True)
    ]


def _row_error(runner: Runner, item: PassItem, rows: object) -> MemberFailed | None:
    wanted = [item.feed.rows, runner.vocab_size]
    if isinstance(rows, Tensor) and list(rows.shape) == wanted:
        return None
    given = list(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
    return MemberFailed(f"{item.name} gave rows of shape {given}, where {wanted} were asked for")


def _length_error(item: PassItem, length: int) -> MemberFailed | None:
    counted = item.feed.slot.length
    if counted == length:
        return None
    return MemberFailed(f"{item.name} counts {counted} tokens in a slot that holds {length}")

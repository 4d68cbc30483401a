"""The forward passes of one round, one for each runner: one after the other, or side by side."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..errors import CospecError, MemberFailed
from ..runner import Feed, Runner
from .faults import attributed

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
Batch = tuple[str, Runner, Sequence[Feed]]
"""A member's name, its runner, and what is to be fed in one forward pass."""


class Passes:
    """Runs forward passes, up to `num_at_once` of them side by side, each in a thread of its own.

    Threads within torch's operations wait for each other at every operation; members wait for each other once a round.
    """

    def __init__(self, num_at_once: int = 1, on_retry: Callable[[str, int, Exception], None] | None = None) -> None:
        self._pool = ThreadPoolExecutor(num_at_once, thread_name_prefix="cospec-forward") if num_at_once > 1 else None
        self._on_retry = on_retry or (lambda name, num_feeds, error: None)

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
        name, runner, feeds = batch
        found = attributed(partial(_forward, name, runner), feeds, lambda _: name, partial(self._on_retry, name))
        # An outcome may itself be an error: rows that are not what was asked for.
        return [*found]


def _is_worth_threads(batches: Sequence[Batch]) -> bool:
    """Whether there are several sequences, or many tokens: short passes hold each other up between their operations."""
    feeds = [feed for _, _, own in batches for feed in own]
    return len(feeds) > len(batches) or sum(len(feed.tokens) for feed in feeds) >= MANY_TOKENS


def _forward(name: str, runner: Runner, feeds: Sequence[Feed]) -> list[Outcome]:
    """One forward pass of all feeds."""
    lengths = [feed.slot.length + len(feed.tokens) for feed in feeds]
    started = time.perf_counter()
    rows = runner.feed(feeds)
    seconds = time.perf_counter() - started
    if len(rows) != len(feeds):
        # The slots have changed, and it cannot be told which feed is missing.
        return [MemberFailed(f"{name} answered {len(feeds)} feeds with {len(rows)} tensors of rows")] * len(feeds)
    forward = ForwardPass(sum(len(feed.tokens) for feed in feeds), len(feeds), seconds)
    return [
        _checked(name, runner, feed, own, length) or Fed(own, forward)
        for feed, own, length in zip(feeds, rows, lengths, strict=True)
    ]


def _checked(name: str, runner: Runner, feed: Feed, rows: object, length: int) -> MemberFailed | None:
    """The error of a runner that does not keep the protocol, or None."""
    if not isinstance(rows, Tensor) or rows.shape != (feed.rows, runner.vocab_size):
        given = list(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        return MemberFailed(
            f"{name} gave rows of shape {given}, where [{feed.rows}, {runner.vocab_size}] were asked for"
        )
    if feed.slot.length != length:
        return MemberFailed(f"{name} counts {feed.slot.length} tokens in a slot that was fed {length}")
    return None

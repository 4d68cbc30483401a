"""The calls of one round, one for each runner: one after the other, or side by side where that leaves no core idle."""

import time
from collections.abc import Sequence as Values
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from torch import Tensor

from .runner import Feed, Runner


@dataclass(frozen=True)
class Call:
    """What came of a runner's call: rows, or the error that it raised.

    seconds: those of the call; of calls side by side their part of what all took together, so that they add up to it.
    """

    rows: Values[Tensor]
    error: Exception | None
    seconds: float


class Calls:
    """Calls runners, up to `num_at_once` of them side by side, each in a thread of its own.

    A thread of torch's arithmetic waits for the others at every operation; members wait for each other once a round.
    """

    def __init__(self, num_at_once: int = 1) -> None:
        self._pool = ThreadPoolExecutor(num_at_once, thread_name_prefix="cospec-call") if num_at_once > 1 else None

    def of(self, asked: Values[tuple[Runner, Values[Feed]]]) -> list[Call]:
        """The outcome of each call, in their order. Runners differ."""
        # A text alone is soon fed, and its calls would hold each other up between their operations.
        has_many = sum(len(feeds) for _, feeds in asked) > len(asked) > 1
        if self._pool is None or not has_many:
            return [_call(*each) for each in asked]
        started = time.perf_counter()
        done = list(self._pool.map(_call, *zip(*asked, strict=True)))
        part = (time.perf_counter() - started) / sum(call.seconds for call in done)
        return [replace(call, seconds=part * call.seconds) for call in done]


def _call(runner: Runner, feeds: Values[Feed]) -> Call:
    started, rows, error = time.perf_counter(), [], None
    try:
        rows = runner.feed(feeds)
    except Exception as raised:  # a back end may raise anything
        error = raised
    return Call(rows, error, time.perf_counter() - started)

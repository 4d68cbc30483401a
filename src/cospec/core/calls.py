"""The calls of one round, one for each runner: one after the other, or side by side."""

import time
from collections.abc import Sequence as Values
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from torch import Tensor

from ..runner import Feed, Runner

# So many tokens of one text are worth a thread.
MANY_TOKENS = 64


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
        if self._pool is None or len(asked) == 1 or not _has_much(asked):
            return [_call(*each) for each in asked]
        started = time.perf_counter()
        done = list(self._pool.map(_call, *zip(*asked, strict=True)))
        part = (time.perf_counter() - started) / sum(call.seconds for call in done)
        return [replace(call, seconds=part * call.seconds) for call in done]


def _has_much(asked: Values[tuple[Runner, Values[Feed]]]) -> bool:
    """Whether there are several texts, or many tokens: short calls hold each other up between their operations."""
    feeds = [feed for _, own in asked for feed in own]
    return len(feeds) > len(asked) or sum(len(feed.tokens) for feed in feeds) >= MANY_TOKENS


def _call(runner: Runner, feeds: Values[Feed]) -> Call:
    started = time.perf_counter()
    try:
        return Call(runner.feed(feeds), None, time.perf_counter() - started)
    except Exception as error:  # a back end may raise anything
        # Without the frames that it came through, which hold what filled the memory while texts are fed one by one.
        return Call([], error.with_traceback(None), time.perf_counter() - started)

"""The thread that owns the engine. Sequences join and leave between two rounds; their events go to the event loop of
their request."""

import asyncio
import threading
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from collections.abc import Sequence as Values
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..core.events import Event
from ..core.live import Request
from ..ensemble import Ensemble
from ..errors import CospecError, InvalidSampling, MemberFailed
from .answers import Tracer
from .errors import NotServing, QueueFull
from .metrics import Metrics


class Progress(NamedTuple):
    """What crosses from the engine's thread to an event loop: an event, and what a trace says of its round."""

    event: Event
    trace: Values[dict[str, Any]] = ()


@dataclass(eq=False)
class Submission:
    """One client's request: the sequences that are decoded for it, side by side.

    submitted: when it arrived, by the performance counter. tracers: one for each sequence, or none at all.
    seconds_to_first: from then to its first token. is_cancelled: its client has left, or one of its sequences failed.
    """

    requests: Values[Request]
    submitted: float
    tracers: Values[Tracer] = ()
    seconds_to_first: float | None = None
    num_finished: int = 0
    is_cancelled: bool = False
    loop: asyncio.AbstractEventLoop | None = None
    queue: "asyncio.Queue[Progress | CospecError]" = field(default_factory=asyncio.Queue)

    async def progress(self) -> AsyncIterator[Progress]:
        """What happens to its sequences, until all are finished.

        Raises NotServing if the engine dies, MemberFailed or InvalidSampling if a sequence fails.
        """
        num_finished = 0
        while num_finished < len(self.requests):
            item = await self.queue.get()
            if isinstance(item, CospecError):
                raise item
            if item.event.result is not None:
                num_finished += 1
                # A finished sheet changes no more, so that it can be read in this thread.
                error = item.event.sheet.error
                if error is not None:
                    # Of all errors that end a sequence a client can mend those of its sampling alone.
                    raise error if isinstance(error, InvalidSampling) else MemberFailed(str(error))
            yield item


@dataclass(eq=False)
class HostedSequence:
    """One sequence of a submission. first, last: when it had its first and its latest tokens."""

    submission: Submission
    request: Request
    tracer: Tracer | None
    first: float | None = None
    last: float | None = None


class Outbox:
    """Items for submissions, collected in the engine's thread, so that an event loop is woken once a round."""

    def __init__(self) -> None:
        self._items: dict[asyncio.AbstractEventLoop, list[tuple[Submission, Progress | CospecError]]]
        self._items = defaultdict(list)

    def add(self, submission: Submission, item: Progress | CospecError) -> None:
        assert submission.loop is not None
        self._items[submission.loop].append((submission, item))

    def send(self) -> None:
        """Hand over all items since the last call."""
        for loop, items in self._items.items():
            try:
                loop.call_soon_threadsafe(_deliver, items)
            except RuntimeError:
                # The loop is closed: nobody waits for these submissions any more.
                for submission, _ in items:
                    submission.is_cancelled = True
        self._items.clear()


def _deliver(items: list[tuple[Submission, Progress | CospecError]]) -> None:
    for submission, item in items:
        submission.queue.put_nowait(item)


class Host:
    """The engine in its thread.

    max_sequences: sequences decoded at a time. max_waiting: sequences that may wait for a place. calls_at_once: members
    whose forward passes may run side by side.
    """

    def __init__(
        self, ensemble: Ensemble, metrics: Metrics, *, max_sequences: int, max_waiting: int, calls_at_once: int = 1
    ) -> None:
        self.engine = ensemble.engine(calls_at_once)
        self.max_sequences, self.max_waiting = max_sequences, max_waiting
        self.error: str | None = None
        self._metrics = metrics
        self._outbox = Outbox()
        self._waiting: deque[HostedSequence] = deque()
        self._live: dict[int, HostedSequence] = {}
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="cospec-engine", daemon=True)
        metrics.watch(self)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_healthy(self) -> bool:
        return self.error is None and self._thread.is_alive()

    @property
    def num_running(self) -> int:
        return len(self._live)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def submit(self, submission: Submission) -> None:
        """Queue its sequences; each joins the batch when a place is free. To be called from the event loop that waits
        for their progress.

        Raises QueueFull or NotServing.
        """
        submission.loop = asyncio.get_running_loop()
        with self._changed:
            if not self.is_healthy or self._is_closing:
                raise NotServing(self.error or "the server is about to end")
            num_new, num_live, num_waiting = len(submission.requests), len(self._live), len(self._waiting)
            if num_new + num_live + num_waiting > self.max_sequences + self.max_waiting:
                raise QueueFull(
                    f"{num_new} more texts were asked for; {num_live} are being decoded and "
                    f"{num_waiting} wait, of at most {self.max_sequences} and {self.max_waiting}: try later"
                )
            for index, request in enumerate(submission.requests):
                tracer = submission.tracers[index] if submission.tracers else None
                self._waiting.append(HostedSequence(submission, request, tracer))
            self._changed.notify()

    def cancel(self, submission: Submission) -> None:
        """Abort its sequences that are not finished, before the next round."""
        if submission.num_finished < len(submission.requests):
            with self._changed:
                submission.is_cancelled = True
                self._changed.notify()

    def close(self, timeout: float = 30.0) -> None:
        """Refuse new submissions, and wait at most `timeout` seconds for those under way."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            while self._admit():
                for event in self.engine.step():
                    self._take(event)
                self._outbox.send()
        except BaseException as error:
            self.error = f"the engine has died: {type(error).__name__}: {error}"
            raise
        finally:
            self.error = self.error or "the engine has ended"
            self._abandon()

    def _admit(self) -> bool:
        """Wait for work, abort what was cancelled, fill free places. False once closed with nothing left."""
        with self._changed:
            while True:
                self._drop_cancelled()
                while self._waiting and len(self._live) < self.max_sequences:
                    self._add(self._waiting.popleft())
                if self._live:
                    return True
                if self._is_closing:
                    return False
                self._outbox.send()
                self._changed.wait()

    def _drop_cancelled(self) -> None:
        for id in [id for id, sequence in self._live.items() if sequence.submission.is_cancelled]:
            self._take(self.engine.abort(id))
        if any(sequence.submission.is_cancelled for sequence in self._waiting):
            self._waiting = deque(sequence for sequence in self._waiting if not sequence.submission.is_cancelled)

    def _add(self, sequence: HostedSequence) -> None:
        try:
            self._live[self.engine.add(sequence.request)] = sequence
        except CospecError as error:
            # The request was checked on arrival; what fails now fails for this client alone.
            sequence.submission.is_cancelled = True
            self._outbox.add(sequence.submission, error)

    def _take(self, event: Event) -> None:
        """Count an event and hand it to its submission."""
        sequence, now = self._live[event.id], time.perf_counter()
        submission = sequence.submission
        if event.tokens:
            if submission.seconds_to_first is None:
                submission.seconds_to_first = now - submission.submitted
                self._metrics.on_first_token(submission.seconds_to_first)
            self._metrics.on_tokens(len(event.tokens), None if sequence.last is None else now - sequence.last)
            sequence.first = now if sequence.first is None else sequence.first
            sequence.last = now
        trace = sequence.tracer.trace(event) if sequence.tracer else ()
        if event.result is not None:
            del self._live[event.id]
            submission.num_finished += 1
            between = 0.0 if sequence.first is None or sequence.last is None else sequence.last - sequence.first
            self._metrics.on_result(event.result, now - submission.submitted, between)
        if event.tokens or event.logprobs or trace or event.result is not None:
            self._outbox.add(submission, Progress(event, trace))

    def _abandon(self) -> None:
        """Report to all that wait that nothing more comes."""
        with self._changed:
            submissions = {sequence.submission for sequence in (*self._live.values(), *self._waiting)}
            self._live.clear()
            self._waiting.clear()
        for submission in submissions:
            self._outbox.add(submission, NotServing(self.error or "the engine has ended"))
        self._outbox.send()

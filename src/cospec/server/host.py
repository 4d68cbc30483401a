"""The thread that owns the engine. Requests join and leave between two rounds; what happens to them is told to the
event loop that they came from."""

import asyncio
import threading
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from collections.abc import Sequence as Values
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..core.engine import Update
from ..core.events import Event, Result
from ..core.live import Live, Request
from ..ensemble import Ensemble
from ..errors import CospecError, InvalidSampling, MemberFailed
from ..results import Origin
from .trace import Tracer


class QueueFull(CospecError):
    """As many texts wait as may."""


class NotServing(CospecError):
    """The engine has died, or the server is about to end."""


class Watcher(Protocol):
    """Who counts what happens; called in the engine's thread."""

    def on_tokens(self, job: "Job", count: int, last: float | None, now: float) -> None:
        """A text of this job moved by `count` tokens; `last`: when it moved before, None at its first."""
        ...

    def on_result(self, job: "Job", result: Result, between: float, now: float) -> None:
        """A text of this job is over; `between`: seconds from its first token to its last."""
        ...


@dataclass(frozen=True)
class Step:
    """What a round did to one text of a job, what a trace says of it, and what ended it if it failed."""

    event: Event
    trace: Values[dict[str, Any]] = ()
    error: CospecError | None = None


@dataclass(eq=False)
class Job:
    """The texts of one client's request, decoded side by side.

    submitted: when it came, by the performance counter. is_prompt_only: whether the client wants nothing but its prompt
    scored; the one token that is decoded for that is not told, nor counted.
    """

    requests: Values[Request]
    submitted: float
    is_traced: bool = False
    is_prompt_only: bool = False
    first_token: float | None = None
    num_finished: int = 0
    is_cancelled: bool = False
    loop: asyncio.AbstractEventLoop | None = None
    _queue: "asyncio.Queue[Step | CospecError]" = field(default_factory=asyncio.Queue)

    @property
    def is_finished(self) -> bool:
        return self.num_finished == len(self.requests)

    def num_told(self, num_tokens: int) -> int:
        """How many of so many decoded tokens the client is given."""
        return 0 if self.is_prompt_only else num_tokens

    def listen(self) -> None:
        """What happens is told to the running event loop."""
        self.loop = asyncio.get_running_loop()

    def hear(self, item: Step | CospecError) -> None:
        """From the event loop."""
        self._queue.put_nowait(item)

    async def steps(self) -> AsyncIterator[Step]:
        """Until all texts are finished. Raises NotServing if the engine dies, MemberFailed or InvalidSampling if a text
        fails."""
        num_finished = 0
        while num_finished < len(self.requests):
            item = await self._queue.get()
            if isinstance(item, CospecError):
                raise item
            if item.error is not None:
                # How a text is sampled is its client's to mend; nothing else that ends one is.
                raise item.error if isinstance(item.error, InvalidSampling) else MemberFailed(str(item.error))
            num_finished += item.event.result is not None
            yield item


class _Post:
    """What jobs are to hear, from the engine's thread: an event loop is woken once a round, not once a text."""

    def __init__(self) -> None:
        self._items: dict[asyncio.AbstractEventLoop, list[tuple[Job, Step | CospecError]]] = defaultdict(list)

    def add(self, job: Job, item: Step | CospecError) -> None:
        assert job.loop is not None
        self._items[job.loop].append((job, item))

    def send(self) -> None:
        """All that was added since."""
        for loop, items in self._items.items():
            try:
                loop.call_soon_threadsafe(_deliver, items)
            except RuntimeError:
                # The loop is closed, and nobody listens any more.
                for job, _ in items:
                    job.is_cancelled = True
        self._items.clear()


def _deliver(items: list[tuple[Job, Step | CospecError]]) -> None:
    for job, item in items:
        job.hear(item)


@dataclass(eq=False)
class _Sample:
    """One text of a job."""

    job: Job
    origin: Origin
    tracer: Tracer | None = None
    first: float | None = None
    last: float | None = None

    @property
    def between(self) -> float:
        """Seconds from the first token to the last."""
        return 0.0 if self.first is None or self.last is None else self.last - self.first


class Host:
    """The engine in its thread.

    max_sequences: texts decoded at a time. max_waiting: texts that may wait for a place. calls_at_once: members called
    side by side.
    """

    def __init__(
        self, ensemble: Ensemble, *, max_sequences: int, max_waiting: int, calls_at_once: int = 1, watcher: Watcher
    ) -> None:
        self.engine = ensemble.engine(calls_at_once)
        self.max_sequences, self.max_waiting = max_sequences, max_waiting
        self.error: str | None = None
        self._watcher = watcher
        self._post = _Post()
        self._waiting: deque[_Sample] = deque()
        self._live: dict[int, _Sample] = {}
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="cospec-engine", daemon=True)

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

    def submit(self, job: Job) -> None:
        """Take in a job; its texts join as places become free. From an event loop, which is told what happens.

        Raises QueueFull or NotServing.
        """
        job.listen()
        with self._changed:
            if not self.is_healthy or self._is_closing:
                raise NotServing(self.error or "the server is about to end")
            num_texts = len(self._live) + len(self._waiting) + len(job.requests)
            if num_texts > self.max_sequences + self.max_waiting:
                raise QueueFull(
                    f"{len(job.requests)} more texts were asked for; {len(self._live)} are being decoded and "
                    f"{len(self._waiting)} wait, of at most {self.max_sequences} and {self.max_waiting}: try later"
                )
            self._waiting.extend(
                _Sample(job, Origin(0, index, request), Tracer() if job.is_traced and not job.is_prompt_only else None)
                for index, request in enumerate(job.requests)
            )
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Let go of what is left of a job, if anything is, before the next round."""
        if job.is_finished:
            return
        with self._changed:
            job.is_cancelled = True
            self._changed.notify()

    def close(self, timeout: float = 30.0) -> None:
        """Take in nothing more, and end once all is done, or after so many seconds."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            while self._admit():
                for live, update in self.engine.step():
                    self._tell(live, update)
                self._post.send()
        except BaseException as error:
            self.error = f"the engine has died: {type(error).__name__}: {error}"
            raise
        finally:
            self.error = self.error or "the engine has ended"
            self._abandon()

    def _admit(self) -> bool:
        """Wait for work, drop what was cancelled, fill free places. False once closed with nothing left."""
        with self._changed:
            while True:
                self._drop_cancelled()
                while self._waiting and len(self._live) < self.max_sequences:
                    self._add(self._waiting.popleft())
                if self._live:
                    return True
                if self._is_closing:
                    return False
                self._post.send()
                self._changed.wait()

    def _drop_cancelled(self) -> None:
        for id, sample in list(self._live.items()):
            if sample.job.is_cancelled:
                self._finish(sample, Step(sample.origin.event(self.engine.abort(id), Update(id, (), (), True))))
                del self._live[id]
        if any(sample.job.is_cancelled for sample in self._waiting):
            self._waiting = deque(sample for sample in self._waiting if not sample.job.is_cancelled)

    def _add(self, sample: _Sample) -> None:
        try:
            self._live[self.engine.add(sample.origin.request)] = sample
        except CospecError as error:
            # It was checked when it came in; what still goes wrong is this client's.
            sample.job.is_cancelled = True
            self._post.add(sample.job, error)

    def _tell(self, live: Live, update: Update) -> None:
        sample, now = self._live[update.id], time.perf_counter()
        num_told = sample.job.num_told(len(update.tokens))
        if num_told:
            self._watcher.on_tokens(sample.job, num_told, sample.last, now)
            sample.first = now if sample.last is None else sample.first
            sample.last = now
        trace = sample.tracer.round(live, update) if sample.tracer else ()
        step = Step(sample.origin.event(live, update), trace, live.sequence.error)
        if update.is_finished:
            del self._live[update.id]
            self._finish(sample, step)
        elif update.tokens or trace:
            self._post.add(sample.job, step)

    def _finish(self, sample: _Sample, step: Step) -> None:
        assert step.event.result is not None
        sample.job.num_finished += 1
        self._watcher.on_result(sample.job, step.event.result, sample.between, time.perf_counter())
        self._post.add(sample.job, step)

    def _abandon(self) -> None:
        """Tell all that wait that nothing more comes."""
        with self._changed:
            jobs = {id(sample.job): sample.job for sample in (*self._live.values(), *self._waiting)}
            self._live.clear()
            self._waiting.clear()
        for job in jobs.values():
            self._post.add(job, NotServing(self.error or "the engine has ended"))
        self._post.send()

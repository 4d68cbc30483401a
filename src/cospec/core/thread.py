"""The thread that decodes for event loops. Sequences join and leave between two rounds; what happens to them goes to
the event loop that waits for them."""

import asyncio
import atexit
import threading
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from ..errors import CospecError
from .engine import Engine
from .events import Event
from .live import Request

Item = TypeVar("Item")


class QueueFull(CospecError):
    """As many sequences wait as may."""


class EngineStopped(CospecError):
    """The engine has died, or is about to end."""


class SequenceGroup(Generic[Item]):
    """Sequences that are decoded for one caller, side by side.

    is_cancelled: nobody waits for them any more; those that are not finished are aborted before the next round.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self.num_finished = 0
        self.is_cancelled = False
        self.engine: Engine | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        # None stands behind the last item.
        self._arrived: deque[Item | CospecError | None] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def observe(self, event: Event) -> Item | None:
        """What the caller is handed of an event of its sequences; None for nothing. Called in the engine's thread."""
        raise NotImplementedError

    async def items(self) -> AsyncIterator[Item]:
        """What happens to its sequences, until all are finished.

        Raises EngineStopped if the engine dies, and what the engine raises where it cannot take in a sequence.
        """
        while (item := await self._next()) is not None:
            if isinstance(item, CospecError):
                raise item
            yield item

    def put(self, item: Item | CospecError | None) -> None:
        """Hand an item to the caller, in whose event loop this is called."""
        self._arrived.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _next(self) -> Item | CospecError | None:
        # No asyncio.Queue: one that is waited for as the interpreter ends cancels, as it is collected, a future that
        # has been collected, which crashes CPython 3.11.
        while not self._arrived:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._arrived.popleft()


class EventGroup(SequenceGroup[Event]):
    """Sequences whose caller is handed every event."""

    def observe(self, event: Event) -> Event:
        return event


class QueuedSequence(NamedTuple):
    """A sequence that waits for a place."""

    group: SequenceGroup[Any]
    request: Request


Delivery = tuple[SequenceGroup[Any], Any]
"""An item, and the group whose caller it goes to."""


class Outbox:
    """Items for callers, collected in the engine's thread, so that an event loop is woken once a round."""

    def __init__(self) -> None:
        self._items: dict[asyncio.AbstractEventLoop, list[Delivery]] = defaultdict(list)

    def add(self, group: SequenceGroup[Any], item: object) -> None:
        assert group.loop is not None
        self._items[group.loop].append((group, item))

    def send(self) -> None:
        """Hand over all items since the last call."""
        for loop, items in self._items.items():
            try:
                loop.call_soon_threadsafe(_deliver, items)
            except RuntimeError:
                # The loop is closed: nobody waits for these groups any more.
                for group, _ in items:
                    group.is_cancelled = True
        self._items.clear()


def _deliver(items: Sequence[Delivery]) -> None:
    for group, item in items:
        group.put(item)


class EngineThread:
    """Runs engines, a round of each in turn, in one thread: forward passes of runners that engines share never overlap.

    max_sequences: sequences decoded at a time, by all engines together. max_waiting: sequences that may wait for a
    place; None for any number. idle_seconds: the thread ends when it had nothing to do for so long, and starts again
    with the next sequence; None to keep it. error: why nothing is decoded any more, once that is so. turn: held for a
    round at a time; whoever runs an engine of these runners in another thread holds it for each of its rounds.
    """

    def __init__(
        self, *, max_sequences: int, max_waiting: int | None = None, idle_seconds: float | None = None
    ) -> None:
        self.max_sequences, self.max_waiting = max_sequences, max_waiting
        self.error: str | None = None
        # An engine may be closed by the garbage collector, within a round.
        self.turn = threading.RLock()
        self._idle_seconds = idle_seconds
        self._outbox = Outbox()
        self._waiting: deque[QueuedSequence] = deque()
        self._live: dict[tuple[Engine, int], SequenceGroup[Any]] = {}
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._changed:
            self._ensure_started()

    def num_running(self, engine: Engine) -> int:
        """Sequences that the engine decodes. (A dictionary and a deque are copied at once, in any thread.)"""
        return sum(each is engine for each, _ in list(self._live))

    def num_waiting(self, engine: Engine) -> int:
        """Sequences that wait for a place in the engine."""
        return sum(queued.group.engine is engine for queued in list(self._waiting))

    def submit(self, engine: Engine, group: SequenceGroup[Any]) -> None:
        """Queue the group's sequences; each joins the engine's batch when a place is free. To be called in the event
        loop that waits for its items.

        Raises QueueFull or EngineStopped.
        """
        group.engine, group.loop = engine, asyncio.get_running_loop()
        if not group.requests:
            group.put(None)
        with self._changed:
            if self.error is not None or self._is_closing:
                raise EngineStopped(self.error or "the engine is about to end")
            num_new, num_live, num_waiting = len(group.requests), len(self._live), len(self._waiting)
            if self.max_waiting is not None and (
                num_new + num_live + num_waiting > self.max_sequences + self.max_waiting
            ):
                raise QueueFull(
                    f"{num_new} more texts were asked for; {num_live} are being decoded and "
                    f"{num_waiting} wait, of at most {self.max_sequences} and {self.max_waiting}: try later"
                )
            self._waiting.extend(QueuedSequence(group, request) for request in group.requests)
            self._ensure_started()
            self._changed.notify()

    def cancel(self, group: SequenceGroup[Any]) -> None:
        """Abort its sequences that are not finished, before the next round."""
        if group.num_finished < len(group.requests):
            with self._changed:
                group.is_cancelled = True
                self._changed.notify()

    def close(self, timeout: float = 30.0) -> None:
        """Refuse new sequences, and wait at most `timeout` seconds for those under way."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def abort(self) -> None:
        """Refuse new sequences, abort those under way, and wait until the round that runs has ended."""
        with self._changed:
            for group in self._groups():
                group.is_cancelled = True
        self.close()

    def _ensure_started(self) -> None:
        if self._thread is None and self.error is None:
            self._thread = threading.Thread(target=self._run, name="cospec-engine", daemon=True)
            self._thread.start()
            # A thread within a forward pass would crash the interpreter that ends around it.
            atexit.register(self.abort)

    def _run(self) -> None:
        try:
            while self._admit():
                for engine in dict.fromkeys(engine for engine, _ in self._live):
                    with self.turn:
                        events = engine.step()
                    for event in events:
                        self._take(engine, event)
                self._outbox.send()
        except BaseException as error:
            self.error = f"the engine has died: {type(error).__name__}: {error}"
            self._abandon(EngineStopped(self.error))
            raise

    def _admit(self) -> bool:
        """Wait for work, abort what was cancelled, fill free places. False once there is nothing left to wait for.

        Engines are called without `_changed`, which event loops take: another thread may hold `turn` for a whole round.
        """
        while True:
            with self._changed:
                cancelled, queued = self._cancelled(), self._next_queued()
                if not cancelled and queued is None:
                    if self._live:
                        return True
                    self._outbox.send()
                    has_news = not self._is_closing and self._changed.wait(self._idle_seconds)
                    # What was submitted just as the time was over is not left behind.
                    if not has_news and not self._waiting:
                        self._leave()
                        return False
            for engine, id in cancelled:
                with self.turn:
                    event = engine.abort(id)
                self._take(engine, event)
            if queued is not None:
                self._add(queued)

    def _leave(self) -> None:
        """The thread ends, with `_changed` held: the next one may start, and be registered, only then."""
        self._thread = None
        atexit.unregister(self.abort)
        if self._is_closing:
            self.error = "the engine has ended"

    def _cancelled(self) -> list[tuple[Engine, int]]:
        """Live sequences to abort; those that wait are dropped at once."""
        if any(queued.group.is_cancelled for queued in self._waiting):
            self._waiting = deque(queued for queued in self._waiting if not queued.group.is_cancelled)
        return [key for key, group in self._live.items() if group.is_cancelled]

    def _next_queued(self) -> QueuedSequence | None:
        """What there is a place for. It waits, and is counted so, until the engine has taken it in."""
        return self._waiting[0] if self._waiting and len(self._live) < self.max_sequences else None

    def _add(self, queued: QueuedSequence) -> None:
        group, id = queued.group, None
        assert group.engine is not None
        try:
            with self.turn:
                id = group.engine.add(queued.request)
        except CospecError as error:
            # The request was checked on arrival; what fails now fails for this caller alone.
            group.is_cancelled = True
            self._outbox.add(group, error)
        with self._changed:
            self._waiting.popleft()
            if id is not None:
                self._live[group.engine, id] = group

    def _take(self, engine: Engine, event: Event) -> None:
        """Hand an event to its group, and what that makes of it to its caller."""
        group = self._live[engine, event.id]
        if event.result is not None:
            del self._live[engine, event.id]
            group.num_finished += 1
        item = group.observe(event)
        if item is not None:
            self._outbox.add(group, item)
        if group.num_finished == len(group.requests):
            self._outbox.add(group, None)

    def _groups(self) -> set[SequenceGroup[Any]]:
        """Those that are not finished."""
        return {*self._live.values(), *(queued.group for queued in self._waiting)}

    def _abandon(self, error: EngineStopped) -> None:
        """Report to all that wait that nothing more comes."""
        with self._changed:
            atexit.unregister(self.abort)
            groups = self._groups()
            self._live.clear()
            self._waiting.clear()
        for group in groups:
            self._outbox.add(group, error)
        self._outbox.send()

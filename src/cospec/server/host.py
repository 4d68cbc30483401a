"""One served model's engine in the thread that decodes, and what its metrics and traces are told of each event."""

import time
from collections.abc import AsyncIterator
from collections.abc import Sequence as Values
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..core.events import Event
from ..core.live import Request
from ..core.thread import EngineThread, SequenceGroup
from ..ensemble import Ensemble
from ..errors import InvalidSampling, MemberFailed
from .answers import Tracer
from .metrics import Metrics, ModelMetrics


class Progress(NamedTuple):
    """What crosses from the engine's thread to an event loop: an event, and what a trace says of its round."""

    event: Event
    trace: Values[dict[str, Any]] = ()


@dataclass
class TokenTimes:
    """When a sequence had its first and its latest tokens, by the performance counter."""

    first: float | None = None
    last: float | None = None


class Submission(SequenceGroup[Progress]):
    """One client's request: the sequences that are decoded for it, side by side.

    submitted: when it arrived, by the performance counter. tracers: one for each sequence, or none at all.
    seconds_to_first: from then to its first token. num_tokens: decoded so far.
    """

    def __init__(self, requests: Values[Request], submitted: float, tracers: Values[Tracer] = ()) -> None:
        super().__init__(requests)
        self.submitted = submitted
        self.seconds_to_first: float | None = None
        self.num_tokens = 0
        self.metrics: ModelMetrics | None = None
        self._tracers = tracers
        self._times = [TokenTimes() for _ in requests]

    async def progress(self) -> AsyncIterator[Progress]:
        """What happens to its sequences, until all are finished.

        Raises EngineStopped if the engine dies, MemberFailed or InvalidSampling if a sequence fails.
        """
        async for item in self.items():
            # A finished sheet changes no more, so that it can be read in this thread.
            error = item.event.sheet.error if item.event.result is not None else None
            if error is not None:
                # Of all errors that end a sequence a client can mend those of its sampling alone.
                raise error if isinstance(error, InvalidSampling) else MemberFailed(str(error))
            yield item

    def observe(self, event: Event) -> Progress | None:
        """Count the event, and trace its round."""
        assert self.metrics is not None, "the host counts what is submitted to it"
        times, now = self._times[event.index], time.perf_counter()
        if event.tokens:
            if self.seconds_to_first is None:
                self.seconds_to_first = now - self.submitted
                self.metrics.on_first_token(self.seconds_to_first)
            self.num_tokens += len(event.tokens)
            self.metrics.on_tokens(len(event.tokens), None if times.last is None else now - times.last)
            times.first = now if times.first is None else times.first
            times.last = now
        trace = self._tracers[event.index].trace(event) if self._tracers else ()
        if event.result is not None:
            between = 0.0 if times.first is None or times.last is None else times.last - times.first
            self.metrics.on_result(event.result, now - self.submitted, between)
        is_news = event.tokens or event.logprobs or trace or event.result is not None
        return Progress(event, trace) if is_news else None


class Host:
    """One model's engine. calls_at_once: members whose forward passes may run side by side."""

    def __init__(
        self, ensemble: Ensemble, thread: EngineThread, metrics: Metrics, model: str, *, calls_at_once: int = 1
    ) -> None:
        self.engine = ensemble.engine(calls_at_once)
        self._thread = thread
        self._metrics = metrics.of(model)
        self._metrics.watch(self)

    @property
    def error(self) -> str | None:
        """Why nothing is decoded any more."""
        return self._thread.error

    @property
    def is_healthy(self) -> bool:
        return self.error is None

    @property
    def num_running(self) -> int:
        return self._thread.num_running(self.engine)

    @property
    def num_waiting(self) -> int:
        return self._thread.num_waiting(self.engine)

    def submit(self, submission: Submission) -> None:
        """Queue its sequences; each joins the batch when a place is free. To be called from the event loop that waits
        for their progress.

        Raises QueueFull or EngineStopped.
        """
        submission.metrics = self._metrics
        self._thread.submit(self.engine, submission)

    def cancel(self, submission: Submission) -> None:
        """Abort its sequences that are not finished, before the next round."""
        self._thread.cancel(submission)

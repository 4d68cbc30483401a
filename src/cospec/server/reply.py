"""The answer to a request that decodes: whole or streamed, until the client leaves."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from collections.abc import Sequence as Values
from functools import partial

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ..core.events import Result
from .decoding import Decoder
from .errors import ApiError
from .fields import Unsupported, refuse_unsupported
from .host import Submission
from .models import ServedModels
from .schema import DecodingRequest

# An answer with more log-probabilities is put together in another thread than the event loop's.
MOST_SCORED = 512


class EventStream(StreamingResponse):
    """Server-sent events. Calls `leave` at its end, even if the client has left before anything was sent."""

    def __init__(self, events: AsyncIterator[str], leave: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


class Reply:
    """The answer to one request, as far as all endpoints that decode are alike. since: when the request arrived."""

    unsupported: Unsupported
    asked: DecodingRequest
    submission: Submission

    def __init__(self, decoder: Decoder, asked: DecodingRequest, since: float) -> None:
        refuse_unsupported(asked, self.unsupported)
        if asked.best_of not in (None, asked.n or 1):
            raise ApiError(400, "best_of other than n is not supported; ask for n texts, and choose", param="best_of")
        if asked.trace and not asked.stream:
            raise ApiError(400, "a trace is streamed; set stream to true", param="trace")
        self.decoder, self.codec, self.asked = decoder, decoder.codec, asked
        self.num_samples = asked.n or 1

    @classmethod
    async def to(cls, models: ServedModels, asked: DecodingRequest, request: Request) -> Response:
        """Make the answer, in the thread that prepares requests, and give it. Raises as `answer` does."""
        decoder = models.of(asked.model)
        reply = await decoder.prepared(partial(cls, decoder, asked, time.perf_counter()))
        return await reply.answer(request)

    async def answer(self, request: Request) -> Response:
        """The answer, streamed or whole. Raises ApiError or CospecError if a sequence fails or the client leaves."""
        # Submitted before the answer begins, so that a full queue is still reported by the status.
        self.decoder.host.submit(self.submission)
        # For the access log, which counts the tokens.
        request.state.submission = self.submission
        if not self.asked.stream:
            return await self._whole(request)
        return EventStream(self.lines(), partial(self.decoder.host.cancel, self.submission))

    def response(self, results: Values[Result]) -> JSONResponse:
        """The whole answer."""
        raise NotImplementedError

    def lines(self) -> AsyncIterator[str]:
        """The server-sent events of a stream. An error that comes too late for the status is one of them."""
        raise NotImplementedError

    async def _whole(self, request: Request) -> JSONResponse:
        gathering, leaving = asyncio.ensure_future(self._results()), asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({gathering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not gathering.done():
                raise ApiError(499, "the client has gone away")
            results = gathering.result()
        finally:
            gathering.cancel()
            leaving.cancel()
            self.decoder.host.cancel(self.submission)
        num_scored = sum(len(result.logprobs or ()) + len(result.prompt_logprobs or ()) for result in results)
        if num_scored > MOST_SCORED:
            return await self.decoder.aside(partial(self.response, results))
        return self.response(results)

    async def _results(self) -> list[Result]:
        """The results of all sequences, in order."""
        results = [event.result async for event, _ in self.submission.progress() if event.result is not None]
        return sorted(results, key=lambda result: result.index)


async def _gone(request: Request) -> None:
    """Returns once the client has left; the body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass

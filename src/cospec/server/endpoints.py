"""The endpoints that decode: completions and chats, whole or streamed."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from collections.abc import Sequence as Values
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from ..core.events import Event, Result
from ..core.tokens import TokenLogprob
from ..ensemble import as_prompts
from ..errors import CospecError
from .answers import Offsets, StreamedChoice, chat_logprobs, completion_logprobs, head, metrics, usage
from .decoding import Decoder
from .errors import ApiError, as_api_error
from .host import Submission
from .schema import (
    IN_CHATS,
    IN_COMPLETIONS,
    ChatRequest,
    CompletionRequest,
    DecodingRequest,
    StreamOptions,
    Unsupported,
    refuse_unsupported,
)

# An answer with more log-probabilities is put together in another thread than the event loop's.
MOST_SCORED = 512


def decoding_routes(decoder: Decoder) -> APIRouter:
    """`/v1/completions` and `/v1/chat/completions`."""
    routes = APIRouter(tags=["decoding"])

    @routes.post("/v1/completions")
    async def completions(asked: CompletionRequest, request: Request) -> Any:
        """Continue a prompt. `logprobs` are those of the combined distribution r."""
        reply = await decoder.prepared(partial(CompletionReply, decoder, asked, time.perf_counter()))
        return reply.streamed() if asked.stream else await reply.whole(request)

    @routes.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Any:
        """Answer a chat, in the first member's template. `logprobs` are those of the combined distribution r."""
        reply = await decoder.prepared(partial(ChatReply, decoder, asked, time.perf_counter()))
        return reply.streamed() if asked.stream else await reply.whole(request)

    return routes


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
    """The answer to one request, as far as completions and chats are alike."""

    kind: str
    stream_kind: str
    unsupported: Unsupported
    asked: DecodingRequest
    submission: Submission

    def __init__(self, decoder: Decoder, asked: DecodingRequest) -> None:
        refuse_unsupported(asked.unknown(), self.unsupported)
        if asked.best_of not in (None, asked.n or 1):
            raise ApiError(400, "best_of other than n is not supported; ask for n texts, and choose", param="best_of")
        if asked.trace and not asked.stream:
            raise ApiError(400, "a trace is streamed; set stream to true", param="trace")
        self.decoder, self.codec, self.asked = decoder, decoder.codec, asked
        self.num_samples = asked.n or 1

    async def whole(self, request: Request) -> JSONResponse:
        """Raises ApiError or CospecError if a sequence fails or the client leaves."""
        self.decoder.host.submit(self.submission)
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
            return await self.decoder.aside(partial(self._response, results))
        return self._response(results)

    def streamed(self) -> StreamingResponse:
        # Submitted before the answer begins, so that a full queue is still reported by the status.
        self.decoder.host.submit(self.submission)
        return EventStream(self._lines(), partial(self.decoder.host.cancel, self.submission))

    def choice(self, result: Result) -> dict[str, Any]:
        """A finished sequence as a choice of a whole answer."""
        raise NotImplementedError

    def delta(self, event: Event, choice: StreamedChoice) -> dict[str, Any] | None:
        """What an event adds to a stream; None for nothing."""
        raise NotImplementedError

    async def _results(self) -> list[Result]:
        """The results of all sequences, in order."""
        results = [event.result async for event, _ in self.submission.progress() if event.result is not None]
        return sorted(results, key=lambda result: result.index)

    def _response(self, results: Values[Result]) -> JSONResponse:
        return JSONResponse(
            {
                **head(self.kind, self.decoder.settings.model),
                "choices": [self.choice(result) for result in results],
                "usage": self._usage(sum(result.completion_tokens for result in results)),
                "metrics": metrics(results, self.submission.submitted, self.submission.seconds_to_first),
            }
        )

    def _usage(self, completion_tokens: int) -> dict[str, int]:
        # A prompt counts once, however many samples it has.
        prompts = [request.prompt for request in self.submission.requests[:: self.num_samples]]
        return usage(sum(map(len, prompts)), completion_tokens)

    async def _lines(self) -> AsyncIterator[str]:
        try:
            async for chunk in self._chunks():
                # In ASCII: some clients take U+2028 and the like for the end of a line.
                yield f"data: {json.dumps(chunk)}\n\n"
        except (ApiError, CospecError) as error:
            yield f"data: {json.dumps(as_api_error(error).body())}\n\n"
        yield "data: [DONE]\n\n"

    async def _chunks(self) -> AsyncIterator[dict[str, Any]]:
        first = head(self.stream_kind, self.decoder.settings.model)
        choices = [StreamedChoice(Offsets(self.codec, 0, request.prompt)) for request in self.submission.requests]
        options, results = self.asked.stream_options or StreamOptions(), []
        async for event, trace in self.submission.progress():
            delta = self.delta(event, choices[event.index])
            more: dict[str, Any] = {"trace": trace} if trace else {}
            if options.continuous_usage_stats:
                more["usage"] = self._usage(sum(choice.num_tokens for choice in choices))
            elif options.include_usage:
                # As by OpenAI: the last chunk has it, the others say null.
                more["usage"] = None
            if delta is not None or any(more.values()):
                yield {**first, "choices": [delta] if delta else [], **more}
            if event.result is not None:
                results.append(event.result)
        last: dict[str, Any] = {
            "metrics": metrics(results, self.submission.submitted, self.submission.seconds_to_first)
        }
        if options.include_usage:
            last["usage"] = self._usage(sum(result.completion_tokens for result in results))
        if options.include_usage or self.asked.trace:
            yield {**first, "choices": [], **last}


class CompletionReply(Reply):
    """The answer to `POST /v1/completions`."""

    kind = stream_kind = "text_completion"
    unsupported = IN_COMPLETIONS
    asked: CompletionRequest

    def __init__(self, decoder: Decoder, asked: CompletionRequest, since: float) -> None:
        super().__init__(decoder, asked)
        self.prompts = as_prompts(asked.prompt)
        if asked.max_tokens == 0 and not asked.echo:
            raise ApiError(400, "max_tokens 0 without echo asks for nothing", param="max_tokens")
        scores_prompt = bool(asked.echo) and asked.logprobs is not None
        if scores_prompt and asked.stream:
            raise ApiError(400, "echo with logprobs is not streamed; leave stream out", param="stream")
        self.submission = decoder.submission(
            asked,
            self.prompts,
            since=since,
            max_tokens=asked.max_tokens,
            logprobs=asked.logprobs,
            prompt_logprobs=asked.logprobs if scores_prompt else None,
        )

    def choice(self, result: Result) -> dict[str, Any]:
        echoed = self._echoed(result.index)
        ids, entries, prompt = (
            result.token_ids,
            [*(result.logprobs or ())],
            self.submission.requests[result.index].prompt,
        )
        offsets = Offsets(self.codec, len(echoed), prompt)
        if result.prompt_logprobs is not None:
            ids, entries, offsets = [*prompt, *ids], [*result.prompt_logprobs, *entries], Offsets(self.codec)
        return {
            "index": result.index,
            "text": echoed + result.text,
            "finish_reason": result.finish_reason,
            "logprobs": self._logprobs(entries, ids, offsets),
        }

    def delta(self, event: Event, choice: StreamedChoice) -> dict[str, Any] | None:
        text, entries = choice.push(event, has_logprobs=self.asked.logprobs is not None)
        finish = event.result.finish_reason if event.result is not None else None
        if not choice.has_begun:
            choice.has_begun, text = True, self._echoed(event.index) + text
        if not text and finish is None and not entries:
            return None
        ids = [entry.token for entry in entries]
        logprobs = self._logprobs(entries, ids, choice.offsets)
        return {"index": event.index, "text": text, "finish_reason": finish, "logprobs": logprobs}

    def _logprobs(
        self, entries: Values[TokenLogprob | None], ids: Values[int], offsets: Offsets
    ) -> dict[str, Any] | None:
        return None if self.asked.logprobs is None else completion_logprobs(self.codec, entries, ids, offsets)

    def _echoed(self, index: int) -> str:
        """The prompt's text, if it is to be repeated in front of this choice."""
        prompt = self.prompts[index // self.num_samples]
        if not self.asked.echo:
            return ""
        if isinstance(prompt, str):
            return prompt
        tokenizer = self.decoder.ensemble.tokenizer
        return tokenizer.decode(prompt) if tokenizer else ""


class ChatReply(Reply):
    """The answer to `POST /v1/chat/completions`."""

    kind = "chat.completion"
    stream_kind = "chat.completion.chunk"
    unsupported = IN_CHATS
    asked: ChatRequest

    def __init__(self, decoder: Decoder, asked: ChatRequest, since: float) -> None:
        super().__init__(decoder, asked)
        if asked.top_logprobs is not None and not asked.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs true", param="top_logprobs")
        self.submission = decoder.submission(
            asked,
            [self.codec.chat(asked.messages)],
            since=since,
            max_tokens=asked.max_completion_tokens or asked.max_tokens,
            logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        )

    def choice(self, result: Result) -> dict[str, Any]:
        return {
            "index": result.index,
            "message": {"role": "assistant", "content": result.text, "refusal": None},
            "finish_reason": result.finish_reason,
            "logprobs": chat_logprobs(self.codec, result.logprobs or []) if self.asked.logprobs else None,
        }

    def delta(self, event: Event, choice: StreamedChoice) -> dict[str, Any] | None:
        text, entries = choice.push(event, has_logprobs=bool(self.asked.logprobs))
        finish = event.result.finish_reason if event.result is not None else None
        # The role comes with the first token and not before: clients time the first token by their first chunk.
        begins = not choice.has_begun and (bool(event.tokens) or finish is not None)
        choice.has_begun |= begins
        if not text and finish is None and not entries and not begins:
            return None
        delta = {"role": "assistant", "content": text} if begins else {"content": text} if text else {}
        logprobs = chat_logprobs(self.codec, entries) if self.asked.logprobs else None
        return {"index": event.index, "delta": delta, "finish_reason": finish, "logprobs": logprobs}


async def _gone(request: Request) -> None:
    """Returns once the client has left; the body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass

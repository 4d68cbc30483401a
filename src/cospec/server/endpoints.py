"""The endpoints that decode: completions and chats, whole or streamed."""

import json
import time
from collections.abc import AsyncIterator, Callable
from collections.abc import Sequence as Values
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from ..core.events import Result
from ..core.tokens import Token, TokenLogprob
from ..ensemble import as_prompts
from ..errors import CospecError
from .answers import Envelope, Offsets, Pairs, chat_logprobs, completion_logprobs, metrics, usage
from .decoding import Decoder
from .errors import ApiError, as_api_error
from .host import Job, Step
from .schema import ChatRequest, CompletionRequest, DecodingRequest
from .trace import spelled
from .unsupported import IN_CHATS, IN_COMPLETIONS, Table, refuse_unsupported

# Log-probabilities of so many tokens are written within the event loop.
MOST_SCORED = 512


def decoding_routes(decoder: Decoder) -> APIRouter:
    """`/v1/completions` and `/v1/chat/completions`."""
    routes = APIRouter(tags=["decoding"])

    @routes.post("/v1/completions")
    async def completions(asked: CompletionRequest, request: Request) -> Any:
        """Go on with a prompt. `logprobs` are those of the combined distribution r."""
        answer = await decoder.prepared(partial(_Completion, decoder, asked, time.perf_counter()))
        return answer.streamed() if asked.stream else await answer.whole(request)

    @routes.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Any:
        """Answer a chat, in the first member's template. `logprobs` are those of the combined distribution r."""
        answer = await decoder.prepared(partial(_Chat, decoder, asked, time.perf_counter()))
        return answer.streamed() if asked.stream else await answer.whole(request)

    return routes


async def _gone(request: Request) -> None:
    """Returns once the client has gone away; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Stream(StreamingResponse):
    """Calls `leave` at its end, however it comes: even if the client is gone before anything was sent."""

    def __init__(self, events: AsyncIterator[str], *, leave: Callable[[], None], headers: dict[str, str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


@dataclass
class _Choice:
    """One text of a stream, as far as it went."""

    pairs: Pairs = field(default_factory=Pairs)
    offsets: Offsets = field(default_factory=Offsets)
    num_tokens: int = 0
    has_begun: bool = False


class _Answer:
    """One request's answer: what completions and chats do alike."""

    kind: str
    unsupported: Table
    job: Job

    def __init__(self, decoder: Decoder, asked: DecodingRequest) -> None:
        refuse_unsupported(asked.unknown(), self.unsupported)
        if asked.best_of not in (None, asked.n or 1):
            raise ApiError(400, "best_of other than n is not supported; ask for n texts, and choose", param="best_of")
        if asked.trace and not asked.stream:
            raise ApiError(400, "a trace is streamed; set stream to true", param="trace")
        self.decoder = decoder
        self.asked = asked
        self.num_samples = asked.n or 1

    async def whole(self, request: Request) -> JSONResponse:
        results = await self.decoder.results(self.job, lambda: _gone(request))
        num_scored = sum(len(result.logprobs or ()) + len(result.prompt_logprobs or ()) for result in results)
        if num_scored > MOST_SCORED:
            # That takes its time, in which the event loop has others to serve.
            return await self.decoder.aside(partial(self._response, results))
        return self._response(results)

    def _response(self, results: Values[Result]) -> JSONResponse:
        choices = [self.choice(index, result) for index, result in enumerate(results)]
        told = self._usage(sum(result.completion_tokens for result in results))
        envelope = Envelope(self.kind, self.decoder.settings.model)
        return JSONResponse(envelope.of(choices, usage=told, metrics=metrics(self.job, results)))

    def streamed(self) -> StreamingResponse:
        # Taken in before the answer begins, so that a full queue is still told by its status.
        self.decoder.host.submit(self.job)
        return _Stream(
            self._events(),
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
            leave=partial(self.decoder.host.cancel, self.job),
        )

    @property
    def prompt_tokens(self) -> int:
        """Of each prompt once, however many samples it has."""
        return sum(len(request.prompt) for request in self.job.requests[:: self.num_samples])

    def _usage(self, num_tokens: int) -> dict[str, int]:
        return usage(self.prompt_tokens, self.job.num_told(num_tokens))

    async def _events(self) -> AsyncIterator[str]:
        try:
            async for chunk in self._chunks():
                # In ASCII: some clients take U+2028 and its like for the end of a line.
                yield f"data: {json.dumps(chunk)}\n\n"
        except (ApiError, CospecError) as error:
            yield f"data: {json.dumps(as_api_error(error).body())}\n\n"
        yield "data: [DONE]\n\n"

    async def _chunks(self) -> AsyncIterator[dict[str, Any]]:
        envelope = Envelope(self.stream_kind, self.decoder.settings.model)
        choices = [_Choice() for _ in self.job.requests]
        options, results = self.asked.stream_options, []
        async for step in self.job.steps():
            result, index = step.event.result, step.event.index
            more: dict[str, Any] = {}
            if step.trace:
                more["trace"] = spelled(step.trace, index, self.decoder.spell)
            choices[index].num_tokens += len(step.event.tokens)
            if options is not None and options.continuous_usage_stats:
                more["usage"] = self._usage(sum(choice.num_tokens for choice in choices))
            elif options is not None and options.include_usage:
                # In the last chunk; OpenAI's others say so.
                more["usage"] = None
            told = self.delta(index, choices[index], step)
            if told is not None or any(more.values()):
                yield envelope.of([told] if told else [], **more)
            if result is not None:
                results.append(result)
        last: dict[str, Any] = {"metrics": metrics(self.job, results)}
        if options is not None and options.include_usage:
            last["usage"] = self._usage(sum(result.completion_tokens for result in results))
        if "usage" in last or self.asked.trace:
            yield envelope.of([], **last)

    @property
    def stream_kind(self) -> str:
        return self.kind

    def choice(self, index: int, result: Result) -> dict[str, Any]:
        raise NotImplementedError

    def delta(self, index: int, choice: _Choice, step: Step) -> dict[str, Any] | None:
        """What a step adds to a stream, None for nothing."""
        raise NotImplementedError


def _new(choice: _Choice, step: Step, wants_logprobs: bool) -> tuple[str, list[Token], list[TokenLogprob]]:
    """The text, tokens and log-probabilities that a step adds; tokens wait for their log-probabilities if wanted."""
    if not wants_logprobs:
        return "".join(token.text for token in step.event.tokens), list(step.event.tokens), []
    pairs = choice.pairs.push(step.event.tokens, step.event.logprobs)
    return "".join(token.text for token, _ in pairs), [t for t, _ in pairs], [entry for _, entry in pairs]


def _finish(step: Step) -> str | None:
    result = step.event.result
    return None if result is None else result.finish_reason


class _Completion(_Answer):
    kind = "text_completion"
    unsupported = IN_COMPLETIONS

    def __init__(self, decoder: Decoder, asked: CompletionRequest, since: float) -> None:
        super().__init__(decoder, asked)
        self.completion = asked
        self.prompts = as_prompts(asked.prompt)
        if asked.max_tokens == 0 and not asked.echo:
            raise ApiError(400, "max_tokens 0 without echo asks for nothing", param="max_tokens")
        scores_prompt = bool(asked.echo) and asked.logprobs is not None
        if scores_prompt and asked.stream:
            raise ApiError(400, "echo with logprobs is not streamed; leave stream out", param="stream")
        self.job = decoder.job(
            asked,
            self.prompts,
            asked.max_tokens,
            since=since,
            logprobs=asked.logprobs,
            prompt_logprobs=asked.logprobs if scores_prompt else None,
        )

    def choice(self, index: int, result: Result) -> dict[str, Any]:
        before, at = self._echoed(index), 0
        ids = [] if self.job.is_prompt_only else result.token_ids
        entries: Values[TokenLogprob | None] = (result.logprobs or [])[: len(ids)]
        if self.completion.echo and result.prompt_logprobs is not None:
            ids = [*self.job.requests[index].prompt, *ids]
            entries = [entry for part in (result.prompt_logprobs, entries) for entry in part]
        else:
            at = len(before)
        wanted = self.completion.logprobs is not None
        return {
            "index": index,
            "text": before + ("" if self.job.is_prompt_only else result.text),
            "finish_reason": "length" if self.job.is_prompt_only else result.finish_reason,
            "logprobs": completion_logprobs(self.decoder, entries, ids, Offsets(at)) if wanted else None,
        }

    def delta(self, index: int, choice: _Choice, step: Step) -> dict[str, Any] | None:
        wanted = self.completion.logprobs is not None
        text, tokens, entries = _new(choice, step, wanted)
        finish = _finish(step)
        if self.job.is_prompt_only:
            text, tokens, entries, finish = "", [], [], finish and "length"
        if not choice.has_begun:
            choice.has_begun, text = True, self._echoed(index) + text
        if not text and finish is None and not entries:
            return None
        told = None
        if wanted:
            ids = [token.settled.token for token in tokens]
            told = completion_logprobs(self.decoder, entries, ids, choice.offsets)
        return {"index": index, "text": text, "finish_reason": finish, "logprobs": told}

    def _echoed(self, index: int) -> str:
        prompt = self.prompts[index // self.num_samples]
        if not self.completion.echo:
            return ""
        if isinstance(prompt, str):
            return prompt
        tokenizer = self.decoder.ensemble.tokenizer
        return tokenizer.decode(prompt) if tokenizer else ""


class _Chat(_Answer):
    kind = "chat.completion"
    unsupported = IN_CHATS

    def __init__(self, decoder: Decoder, asked: ChatRequest, since: float) -> None:
        super().__init__(decoder, asked)
        self.chat = asked
        if asked.top_logprobs is not None and not asked.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs true", param="top_logprobs")
        wanted = (asked.top_logprobs or 0) if asked.logprobs else None
        max_tokens = asked.max_completion_tokens or asked.max_tokens
        prompt = decoder.chat_prompt(asked.messages)
        self.job = decoder.job(asked, [prompt], max_tokens, since=since, logprobs=wanted)

    @property
    def stream_kind(self) -> str:
        return "chat.completion.chunk"

    def choice(self, index: int, result: Result) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": result.text, "refusal": None},
            "finish_reason": result.finish_reason,
            "logprobs": chat_logprobs(self.decoder, result.logprobs or []) if self.chat.logprobs else None,
        }

    def delta(self, index: int, choice: _Choice, step: Step) -> dict[str, Any] | None:
        text, _, entries = _new(choice, step, bool(self.chat.logprobs))
        finish = _finish(step)
        # With the first token, and not before: clients take the first they hear of a text for its first token.
        begins = not choice.has_begun and (bool(step.event.tokens) or finish is not None)
        choice.has_begun |= begins
        if not text and finish is None and not entries and not begins:
            return None
        delta = {"role": "assistant", "content": text} if begins else {"content": text} if text else {}
        told = chat_logprobs(self.decoder, entries) if self.chat.logprobs else None
        return {"index": index, "delta": delta, "finish_reason": finish, "logprobs": told}

"""The endpoints that answer with choices: completions and chats."""

import json
from collections.abc import AsyncIterator
from collections.abc import Sequence as Values
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from ..core.events import Event, Result
from ..core.tokens import TokenLogprob
from ..errors import CospecError
from ..prompts import Chat, as_prompts
from .answers import Offsets, StreamedChoice, chat_logprobs, completion_logprobs, echoed_offsets, head, metrics, usage
from .codec import as_chat
from .decoding import Decoder
from .errors import ApiError, about, as_api_error
from .fields import IN_CHATS, IN_COMPLETIONS
from .models import ServedModels
from .reply import Reply
from .schema import ChatRequest, CompletionRequest, StreamOptions


def decoding_routes(models: ServedModels) -> APIRouter:
    """`/v1/completions` and `/v1/chat/completions`."""
    routes = APIRouter(tags=["decoding"])

    @routes.post("/v1/completions")
    async def completions(asked: CompletionRequest, request: Request) -> Any:
        """Continue a prompt. `logprobs` are those of the combined distribution r."""
        return await CompletionReply.to(models, asked, request)

    @routes.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Any:
        """Answer a chat, which each member reads in its own template. `logprobs` are those of the combined distribution
        r."""
        return await ChatReply.to(models, asked, request)

    return routes


class ChoicesReply(Reply):
    """An answer with a choice for each sequence."""

    asked: CompletionRequest | ChatRequest
    kind: str
    stream_kind: str

    def choice(self, result: Result) -> dict[str, Any]:
        """A finished sequence as a choice of a whole answer."""
        raise NotImplementedError

    def delta(self, event: Event, choice: StreamedChoice) -> dict[str, Any] | None:
        """What an event adds to a stream; None for nothing."""
        raise NotImplementedError

    def response(self, results: Values[Result]) -> JSONResponse:
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

    async def lines(self) -> AsyncIterator[str]:
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
                seed = self.submission.requests[event.index].draws.seed
                yield {**first, "choices": [{**delta, "seed": seed}] if delta else [], **more}
            if event.result is not None:
                results.append(event.result)
        last: dict[str, Any] = {
            "metrics": metrics(results, self.submission.submitted, self.submission.seconds_to_first)
        }
        if options.include_usage:
            last["usage"] = self._usage(sum(result.completion_tokens for result in results))
        if options.include_usage or self.asked.trace:
            yield {**first, "choices": [], **last}


class CompletionReply(ChoicesReply):
    """The answer to `POST /v1/completions`."""

    kind = stream_kind = "text_completion"
    unsupported = IN_COMPLETIONS
    asked: CompletionRequest

    def __init__(self, decoder: Decoder, asked: CompletionRequest, since: float) -> None:
        super().__init__(decoder, asked, since)
        self.prompts = as_prompts(asked.prompt)
        if asked.max_tokens == 0 and not asked.echo:
            raise ApiError(400, "max_tokens 0 without echo asks for nothing", param="max_tokens")
        scores_prompt = bool(asked.echo) and asked.logprobs is not None
        if scores_prompt and decoder.ensemble.has_own_prompts:
            raise ApiError(
                400, "echo with logprobs needs members without prompts of their own, which are not echoed", param="echo"
            )
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
            ids, entries = [*prompt, *ids], [*result.prompt_logprobs, *entries]
            offsets = echoed_offsets(self.codec, echoed if self._is_text(result.index) else None, prompt)
        return {
            "index": result.index,
            "seed": result.seed,
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

    def _is_text(self, index: int) -> bool:
        return isinstance(self.prompts[index // self.num_samples], str)

    def _echoed(self, index: int) -> str:
        """The prompt's text, if it is to be repeated in front of this choice."""
        prompt = self.prompts[index // self.num_samples]
        if not self.asked.echo:
            return ""
        if isinstance(prompt, str):
            return prompt
        assert not isinstance(prompt, Chat), "a completion continues texts or token ids"
        tokenizer = self.decoder.ensemble.tokenizer
        return tokenizer.decode(prompt) if tokenizer else ""


class ChatReply(ChoicesReply):
    """The answer to `POST /v1/chat/completions`."""

    kind = "chat.completion"
    stream_kind = "chat.completion.chunk"
    unsupported = IN_CHATS
    asked: ChatRequest

    def __init__(self, decoder: Decoder, asked: ChatRequest, since: float) -> None:
        super().__init__(decoder, asked, since)
        if asked.top_logprobs is not None and not asked.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs true", param="top_logprobs")
        with about("messages"):
            self.submission = decoder.submission(
                asked,
                [as_chat(asked.messages, asked.chat_template_kwargs)],
                since=since,
                max_tokens=asked.max_completion_tokens or asked.max_tokens,
                logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
            )

    def choice(self, result: Result) -> dict[str, Any]:
        return {
            "index": result.index,
            "seed": result.seed,
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

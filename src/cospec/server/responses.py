"""The endpoint of OpenAI's newer clients, `/v1/responses`: text in and text out, whole or streamed; nothing is kept."""

import json
import time
import uuid
from collections.abc import AsyncIterator
from collections.abc import Sequence as Values
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from ..core.events import Result
from ..core.params import SamplingParams
from ..errors import CospecError
from .answers import metrics
from .codec import as_chat
from .decoding import Decoder
from .errors import ApiError, about, as_api_error
from .fields import IN_RESPONSES
from .models import ServedModels
from .reply import Reply
from .schema import ResponsesRequest

# Of a response's one item, a message, and its one part.
PLACE = {"output_index": 0, "content_index": 0}


def response_routes(models: ServedModels) -> APIRouter:
    """`/v1/responses`."""
    routes = APIRouter(tags=["decoding"])

    @routes.post("/v1/responses")
    async def responses(asked: ResponsesRequest, request: Request) -> Any:
        """Answer an input, which each member is given in its own chat template."""
        return await ResponseReply.to(models, asked, request)

    return routes


class ResponseReply(Reply):
    """The answer to `POST /v1/responses`."""

    unsupported = IN_RESPONSES
    asked: ResponsesRequest

    def __init__(self, decoder: Decoder, asked: ResponsesRequest, since: float) -> None:
        super().__init__(decoder, asked, since)
        if self.num_samples > 1:
            raise ApiError(400, "a response is one text; leave n out, or use chat completions", param="n")
        if asked.trace:
            raise ApiError(400, "a trace is streamed beside completions and chats alone", param="trace")
        with about("input"):
            chat = as_chat(asked.messages())
            self.submission = decoder.submission(asked, [chat], since=since, max_tokens=asked.max_output_tokens)
        self._created = time.time()
        self._id, self._message_id = f"resp_{uuid.uuid4().hex}", f"msg_{uuid.uuid4().hex}"

    def response(self, results: Values[Result]) -> JSONResponse:
        return JSONResponse(self._finished(results[0]))

    async def lines(self) -> AsyncIterator[str]:
        number = 0
        try:
            async for event in self._events():
                yield _line(event, number)
                number += 1
        except (ApiError, CospecError) as error:
            answer = as_api_error(error)
            failed = {"code": answer.code or "server_error", "message": answer.message}
            yield _line({"type": "response.failed", "response": self._whole_response("failed", error=failed)}, number)
            # OpenAI's clients raise for an event with an `error`.
            yield _line({"type": "error", **failed, "param": answer.param, **answer.body()}, number + 1)

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        """The events in OpenAI's order: the response, its item, the item's part, and the same backwards."""
        begun = self._whole_response("in_progress")
        yield {"type": "response.created", "response": begun}
        yield {"type": "response.in_progress", "response": begun}
        item, part = self._message("in_progress", []), _part("")
        yield {"type": "response.output_item.added", "output_index": 0, "item": item}
        place = {"item_id": self._message_id, **PLACE}
        yield {"type": "response.content_part.added", **place, "part": part}
        result = None
        async for event, _ in self.submission.progress():
            delta = "".join(token.text for token in event.tokens)
            if delta:
                yield {"type": "response.output_text.delta", **place, "delta": delta, "logprobs": []}
            result = event.result
        assert result is not None, "the last event of a sequence has its result"
        whole = self._finished(result)
        (item,) = whole["output"]
        yield {"type": "response.output_text.done", **place, "text": result.text, "logprobs": []}
        yield {"type": "response.content_part.done", **place, "part": item["content"][0]}
        yield {"type": "response.output_item.done", "output_index": 0, "item": item}
        yield {"type": f"response.{whole['status']}", "response": whole}

    def _finished(self, result: Result) -> dict[str, Any]:
        """The response with the whole text."""
        status = "incomplete" if result.finish_reason == "length" else "completed"
        details = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            **self._whole_response(status, details=details),
            "output": [self._message(status, [_part(result.text)])],
            "usage": {
                "input_tokens": result.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": result.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": result.prompt_tokens + result.completion_tokens,
            },
            "metrics": metrics([result], self.submission.submitted, self.submission.seconds_to_first),
        }

    def _whole_response(
        self, status: str, *, error: dict[str, Any] | None = None, details: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """The response as far as it is known before its text is."""
        asked = self.asked
        params: SamplingParams = self.submission.requests[0].params
        format = asked.text.format if asked.text is not None else None
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "model": self.decoder.settings.model,
            "status": status,
            "error": error,
            "incomplete_details": details,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "output": [],
            "temperature": params.temperature,
            "top_p": params.top_p,
            "text": {"format": {"type": "text"} if format is None else format.model_dump(by_alias=True)},
            "user": asked.user,
            "usage": None,
            # What is not supported, as clients expect it to be told.
            "background": False,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "tool_choice": "none",
            "tools": [],
            "truncation": "disabled",
        }

    def _message(self, status: str, parts: Values[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._message_id, "type": "message", "role": "assistant", "status": status, "content": [*parts]}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _line(event: dict[str, Any], number: int) -> str:
    """A server-sent event. In ASCII: some clients take U+2028 and the like for the end of a line."""
    return f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n"

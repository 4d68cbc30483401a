"""Fields of requests that `cospec serve` knows and vLLM would ignore: refused, by `vllm serve --middleware`."""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_FIXED = "vLLM computes r without knowing whose position it is: it was set for all requests at the export"
_COSPEC = "it belongs to cospec's own engine"
# Field -> why it cannot be had here.
REFUSED = {
    "weights": _FIXED,
    "mu": _FIXED,
    "plausibility": _FIXED,
    "scale": _FIXED,
    "member_temperature": _FIXED,
    "member_top_p": _FIXED,
    "schedule": _COSPEC,
    "gamma": _COSPEC,
    "verification": _COSPEC,
    "trace": _COSPEC,
}
# Where vLLM's endpoints take what vLLM itself does not know, one within another.
_EXTRA = ("vllm_xargs", "sampling_params", "extra_args")


class RefuseOthers:
    """ASGI middleware: answers 400 to a request with such a field, and hands on all others as they are."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        messages = [message async for message in _body(receive)]
        field = refused(b"".join(message.get("body", b"") for message in messages))
        if field is None:
            await self._app(scope, _again(messages, receive), send)
            return
        message = f"{field} is not supported here: {REFUSED[field]}; leave it out, or use cospec serve"
        error = {"message": message, "type": "invalid_request_error", "param": field, "code": 400}
        body = json.dumps({"error": error}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def refused(body: bytes) -> str | None:
    """The first field of a request's body that is refused; None where there is none, or no JSON object."""
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return next(_refused(value), None)


def _refused(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from (name for name in REFUSED if value.get(name) is not None)
        for name in _EXTRA:
            yield from _refused(value.get(name))


async def _body(receive: Receive) -> Any:
    while True:
        message = await receive()
        yield message
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


def _again(messages: list[Message], receive: Receive) -> Receive:
    """What was received, then what comes."""
    kept = iter(messages)

    async def again() -> Message:
        return next(kept, None) or await receive()

    return again

"""The first check of every request: its API key, and the size of its body."""

import asyncio
import contextlib
import hmac
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError

# Paths that need no key. A supervisor asks for the health without one. The page and the endpoints' document hold no
# data, and a browser that follows a link to them cannot send a key.
OPEN_PATHS = ("/health", "/", "/docs", "/openapi.json")
# A refused body is read up to so many bytes and seconds: a client reads no answer before it has sent all of it.
MOST_DRAINED = 64 * 2**20
SECONDS_DRAINED = 10.0


class Gate:
    """An ASGI middleware. keys: empty lets everyone in. max_body: in bytes. body_seconds: time limit for a body."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], max_body: int, body_seconds: float) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]
        self._max_body = max_body
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if not self._may_enter(scope["path"], headers.get(b"authorization", b"")):
            message = "give a key this server knows as `Authorization: Bearer KEY`"
            refusal = ApiError(401, message, code="invalid_api_key")
        elif length.isdigit() and int(length) > self._max_body:
            refusal = ApiError(413, self._too_large)
        else:
            await self._app(scope, self._counted(receive), send)
            return
        # With `Expect: 100-continue` the client waits for the answer before it sends the body.
        if b"expect" not in headers:
            await _drain(receive)
        await refusal.response()(scope, receive, send)

    @property
    def _too_large(self) -> str:
        return f"the request is larger than the {self._max_body} bytes that are allowed"

    def _may_enter(self, path: str, authorization: bytes) -> bool:
        if not self._keys or path in OPEN_PATHS:
            return True
        scheme, _, given = authorization.partition(b" ")
        # Every key is compared in full, so that the time taken does not depend on where a wrong one differs.
        matches = [hmac.compare_digest(given.strip(), key) for key in self._keys]
        return scheme.lower() == b"bearer" and any(matches)

    def _counted(self, receive: Receive) -> Receive:
        """`receive`, with limits on the size and duration of the body.

        Raises starlette's HTTPException, the one error that FastAPI does not report as an unreadable body.
        """
        num_read, is_whole = 0, False
        deadline = asyncio.get_running_loop().time() + self._body_seconds

        async def counted() -> Message:
            nonlocal num_read, is_whole
            if is_whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body did not come within {self._body_seconds:g} seconds") from None
            num_read += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if num_read > self._max_body:
                if not is_whole:
                    await _drain(receive)
                raise HTTPException(413, self._too_large)
            return message

        return counted


async def _drain(receive: Receive) -> None:
    """Read and discard what the client still sends, within limits."""
    num_read = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SECONDS_DRAINED):
            while num_read < MOST_DRAINED:
                message = await receive()
                num_read += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return

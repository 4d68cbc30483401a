"""What every request passes first: its key, and the size of its body."""

import asyncio
import contextlib
import hmac
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError

# Whether the server is alive may be asked by anyone. The page and the endpoints' document hold no data, and a browser
# that follows a link to them cannot bring a key along.
OPEN_PATHS = ("/health", "/", "/docs", "/openapi.json")
# How much of a refused body is read, and for how long: a client reads no answer before it has sent all of it.
MOST_DRAINED = 64 * 2**20
SECONDS_DRAINED = 10.0


class Gate:
    """An ASGI middleware. keys: empty for none. max_body: bytes. body_seconds: how long a body may take to come."""

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
        refusal = self._refusal(scope["path"], headers)
        if refusal is None:
            await self._app(scope, self._counted(receive), send)
            return
        if b"expect" not in headers:
            await _drain(receive)
        await refusal.response()(scope, receive, send)

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> ApiError | None:
        """Why this request goes no further, if it does not."""
        if not self._may_enter(path, headers.get(b"authorization", b"")):
            return ApiError(401, "give a key this server knows as `Authorization: Bearer KEY`", code="invalid_api_key")
        length = headers.get(b"content-length", b"0")
        return self._too_large() if length.isdigit() and int(length) > self._max_body else None

    def _may_enter(self, path: str, authorization: bytes) -> bool:
        if not self._keys or path in OPEN_PATHS:
            return True
        scheme, _, given = authorization.partition(b" ")
        # Each is compared, whole, so that the time it takes tells nothing.
        matches = [hmac.compare_digest(given.strip(), key) for key in self._keys]
        return scheme.lower() == b"bearer" and any(matches)

    def _counted(self, receive: Receive) -> Receive:
        """Hands on a body that is small enough and comes in time. What it raises the framework lets pass where it reads
        a body; anything else would be a body that cannot be read."""
        read, is_whole = 0, False
        deadline = asyncio.get_running_loop().time() + self._body_seconds

        async def counted() -> Message:
            nonlocal read, is_whole
            if is_whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body did not come within {self._body_seconds:g} seconds") from None
            read += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if read > self._max_body:
                if not is_whole:
                    await _drain(receive)
                raise HTTPException(413, self._too_large().message)
            return message

        return counted

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the request is larger than the {self._max_body} bytes that are allowed")


async def _drain(receive: Receive) -> None:
    """Read and forget what the client still sends, within limits."""
    num_read = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SECONDS_DRAINED):
            while num_read < MOST_DRAINED:
                message = await receive()
                num_read += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return

"""What every request passes first: its key, and the size of its body."""

import hmac
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError

# Whether the server is alive may be asked by anyone; the page says nothing of its own, and asks for the key.
OPEN_PATHS = ("/health", "/")


class Gate:
    """An ASGI middleware. keys: empty for none. max_body: bytes."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], max_body: int) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not self._may_enter(scope["path"], headers.get(b"authorization", b"")):
            error = ApiError(401, "give a key this server knows as `Authorization: Bearer KEY`", code="invalid_api_key")
            await error.response()(scope, receive, send)
            return
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body:
            await self._too_large().response()(scope, receive, send)
            return
        await self._app(scope, self._counted(receive), send)

    def _may_enter(self, path: str, authorization: bytes) -> bool:
        if not self._keys or path in OPEN_PATHS:
            return True
        scheme, _, given = authorization.partition(b" ")
        # Each is compared, whole, so that the time it takes tells nothing.
        matches = [hmac.compare_digest(given.strip(), key) for key in self._keys]
        return scheme.lower() == b"bearer" and any(matches)

    def _counted(self, receive: Receive) -> Receive:
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_body:
                # What the framework lets pass where it reads a body; anything else would be a body that cannot be read.
                raise HTTPException(413, self._too_large().message)
            return message

        return counted

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the request is larger than the {self._max_body} bytes that are allowed")

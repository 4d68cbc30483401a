"""The access log, and how all logs of a server are written."""

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

access = logging.getLogger("cospec.access")


class AccessLog:
    """An ASGI middleware: a line for each request at level `info`, once it is answered.

    It has nothing that a client wrote: a path is that of the endpoint, as declared, or `-` where there is none.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not access.isEnabledFor(logging.INFO):
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        scope.setdefault("state", {})

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            told = _told(scope, status, time.perf_counter() - started)
            text = "%(client)s %(method)s %(path)s %(status)d %(seconds).3f s"
            access.info(text if told["tokens"] is None else f"{text} %(tokens)d tokens", told, extra={"told": told})


def _told(scope: Scope, status: int, seconds: float) -> dict[str, Any]:
    """What the log says of a request. tokens: those decoded for it, also if its client has left; None if none could
    be."""
    client, submission = scope.get("client"), scope["state"].get("submission")
    return {
        "client": client[0] if client else "-",
        "method": scope["method"],
        "path": getattr(scope.get("route"), "path", "-"),
        "status": status,
        "seconds": round(seconds, 6),
        "tokens": None if submission is None else submission.num_tokens,
    }


class JsonFormatter(logging.Formatter):
    """A record as an object in a line: time, level, logger and message, and what the access log tells, field by
    field."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "told", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logs(level: str, format: str) -> None:
    """Write what cospec and its web server log to stderr, from this level on."""
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if format == "json" else plain)
    for name in ("cospec", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level.upper())

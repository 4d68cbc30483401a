"""The application without a socket: batches are answered by the same endpoints that clients call."""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Self

from anyio.from_thread import start_blocking_portal
from httpx import ASGITransport, AsyncClient

from ..ensemble import Ensemble
from .app import create_app
from .settings import ServerSettings

# The queue and the bodies of a batch need no limit: there are no strangers among its clients.
NO_LIMIT = 2**62
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, kw_only=True)
class EndpointCall:
    """A body to post to an endpoint. number: its place in the batch, repeated in its answer."""

    number: int
    url: str
    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The server's answer to the call of that number."""

    number: int
    status: int
    body: dict[str, Any]


class Offline:
    """The application in an event loop of its own, from entering to leaving it; leaving aborts what is under way.

    settings: its keys and its limits on the queue and on bodies are ignored.
    """

    def __init__(self, ensemble: Ensemble, settings: ServerSettings) -> None:
        self._app = create_app(ensemble, replace(settings, api_keys=(), max_waiting=NO_LIMIT, max_body=NO_LIMIT))
        # An exception in the application is answered with 500, as by a server.
        transport = ASGITransport(self._app, raise_app_exceptions=False)
        self._client = AsyncClient(transport=transport, base_url="http://offline", timeout=None)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            lifespan = self._app.router.lifespan_context(self._app)
            stack.enter_context(self._portal.wrap_async_context_manager(lifespan))
            stack.enter_context(self._portal.wrap_async_context_manager(self._client))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def submit(self, call: EndpointCall) -> "Future[Answer]":
        """Start a call. Cancelling the future frees its places in the engine before the next round."""
        return self._portal.start_task_soon(self._answer, call)

    def answers(self, calls: Iterable[EndpointCall], *, most: int) -> Iterator[Answer]:
        """The answers in the order in which they are finished, with at most `most` calls at a time."""
        pending: set[Future[Answer]] = set()
        waiting = iter(calls)
        try:
            while True:
                pending |= {self.submit(call) for call in islice(waiting, most - len(pending))}
                if not pending:
                    return
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        finally:
            for future in pending:
                future.cancel()

    async def _answer(self, call: EndpointCall) -> Answer:
        # Encoded here and not by httpx, whose encoder refuses NaN: the endpoint refuses it with its own message.
        response = await self._client.post(call.url, content=json.dumps(call.body), headers=JSON)
        return Answer(number=call.number, status=response.status_code, body=response.json())

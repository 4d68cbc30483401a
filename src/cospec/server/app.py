"""The application: ensembles behind OpenAI's endpoints, and a page that shows how their text is decoded."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, Response

from .. import __version__
from ..core.thread import EngineThread
from ..ensemble import Ensemble
from . import errors
from .access import AccessLog
from .decoding import Decoder
from .endpoints import decoding_routes
from .fields import IN_DETOKENIZE, IN_TOKENIZE, refuse_unsupported
from .gate import Gate
from .host import Host
from .metrics import Metrics
from .models import ServedModels, model_routes
from .page import page
from .responses import response_routes
from .schema import DetokenizeRequest, TokenizeRequest
from .settings import InvalidSettings, ServerSettings


def create_app(ensembles: Ensemble | Mapping[str, Ensemble], settings: ServerSettings) -> FastAPI:
    """The application. Its engines run in one thread from startup to shutdown, which waits for requests under way.

    ensembles: one, or several by the names that clients choose them by; then `settings.model` is the name of that for
    requests that name none. They may share runners. Raises InvalidSettings where it is none of them, and for an
    ensemble that is not reproducible where `settings` say that all are.
    """
    named = {settings.model: ensembles} if isinstance(ensembles, Ensemble) else dict(ensembles)
    if settings.model not in named:
        raise InvalidSettings(f"model must be one of the ensembles, {', '.join(named)}, got {settings.model!r}")
    if settings.reproducible:
        for name, ensemble in named.items():
            _check_reproducible(name, ensemble)
    metrics = Metrics()
    thread = EngineThread(max_sequences=settings.max_sequences, max_waiting=settings.max_waiting)
    hosts = {
        name: Host(ensemble, thread, metrics, name, calls_at_once=settings.calls_at_once)
        for name, ensemble in named.items()
    }
    decoders = {name: Decoder(named[name], replace(settings, model=name), host) for name, host in hosts.items()}
    models = ServedModels(decoders, settings.model)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        thread.start()
        yield
        await asyncio.to_thread(thread.close)
        models.close()

    app = FastAPI(
        title="cospec",
        version=__version__,
        description="Text from several language models at once, exactly from their combined distribution.",
        lifespan=lifespan,
    )
    app.state.hosts = hosts
    app.state.host = hosts[settings.model]
    errors.install(app)
    for routes in (decoding_routes, response_routes, _token_routes, model_routes):
        app.include_router(routes(models))
    app.include_router(_server_routes(thread, metrics))
    app.add_middleware(Gate, keys=settings.api_keys, max_body=settings.max_body, body_seconds=settings.body_seconds)
    if settings.origins:
        # Outside the gate: a browser asks for permission without the key, and reads refusals only with permission.
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    app.add_middleware(AccessLog)
    return app


def _check_reproducible(name: str, ensemble: Ensemble) -> None:
    if not ensemble.is_invariant or ensemble.plan.verification != "coupled":
        raise InvalidSettings(
            f"reproducible asks for numerics: invariant and verification: coupled, and the ensemble {name!r} has "
            f"{'invariant' if ensemble.is_invariant else 'default'} numerics and {ensemble.plan.verification} "
            "verification; load it with both"
        )


def _token_routes(models: ServedModels) -> APIRouter:
    routes = APIRouter(tags=["tokens"])

    @routes.post("/tokenize")
    async def tokenize(asked: TokenizeRequest) -> Any:
        """Token ids of a text, or of a chat as it would be fed."""
        refuse_unsupported(asked, IN_TOKENIZE)
        decoder = models.of(asked.model)
        ids = await decoder.aside(partial(decoder.codec.tokens, asked))
        return {"count": len(ids), "max_model_len": decoder.codec.context, "tokens": ids}

    @routes.post("/detokenize")
    async def detokenize(asked: DetokenizeRequest) -> Any:
        """The text of token ids."""
        refuse_unsupported(asked, IN_DETOKENIZE)
        decoder = models.of(asked.model)
        return {"prompt": await decoder.aside(partial(decoder.codec.text, asked.tokens))}

    @routes.get("/tokenizer_info")
    async def tokenizer_info(model: str | None = None) -> Any:
        """What clients need that count tokens themselves."""
        return models.of(model).codec.info()

    return routes


def _server_routes(thread: EngineThread, metrics: Metrics) -> APIRouter:
    routes = APIRouter(tags=["server"])

    @routes.get("/", include_in_schema=False)
    async def front() -> HTMLResponse:
        return page()

    @routes.get("/health")
    async def health() -> JSONResponse:
        """200 while the engine runs, 503 once it has died."""
        if thread.error is None:
            return JSONResponse({"status": "ok", "error": None})
        return JSONResponse({"status": "dead", "error": thread.error}, 503)

    @routes.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @routes.get("/metrics")
    async def prometheus() -> Response:
        """In Prometheus' text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes

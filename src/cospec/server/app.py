"""The application: one ensemble behind OpenAI's endpoints, and a page that shows how its text is decoded."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, Response

from .. import __version__, demo
from ..core.thread import EngineThread
from ..core.verify import VERIFICATIONS
from ..ensemble import Ensemble
from ..schedule import schedule_names
from . import errors
from .decoding import Decoder
from .endpoints import decoding_routes
from .errors import ApiError
from .gate import Gate
from .host import Host
from .metrics import Metrics
from .page import page
from .schema import IN_TOKENIZE, DetokenizeRequest, TokenizeRequest, refuse_unsupported
from .settings import ServerSettings

NUM_EXAMPLE_PROMPTS = 8


def create_app(ensemble: Ensemble, settings: ServerSettings) -> FastAPI:
    """The application. Its engine runs from startup to shutdown, which waits for the requests under way."""
    metrics = Metrics()
    thread = EngineThread(max_sequences=settings.max_sequences, max_waiting=settings.max_waiting)
    host = Host(ensemble, thread, metrics, settings.model, calls_at_once=settings.calls_at_once)
    decoder = Decoder(ensemble, settings, host)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        thread.start()
        yield
        await asyncio.to_thread(thread.close)
        decoder.close()

    app = FastAPI(
        title="cospec",
        version=__version__,
        description="Text from several language models at once, exactly from their combined distribution.",
        lifespan=lifespan,
    )
    app.state.host = host
    errors.install(app)
    app.include_router(decoding_routes(decoder))
    app.include_router(_token_routes(decoder))
    app.include_router(_model_routes(decoder))
    app.include_router(_server_routes(host, metrics))
    app.add_middleware(Gate, keys=settings.api_keys, max_body=settings.max_body, body_seconds=settings.body_seconds)
    if settings.origins:
        # Outside the gate: a browser asks for permission without the key, and reads refusals only with permission.
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    return app


def _token_routes(decoder: Decoder) -> APIRouter:
    routes = APIRouter(tags=["tokens"])
    codec = decoder.codec

    @routes.post("/tokenize")
    async def tokenize(asked: TokenizeRequest) -> Any:
        """Token ids of a text, or of a chat as it would be fed."""
        refuse_unsupported(asked.model_extra or {}, IN_TOKENIZE)
        ids = await decoder.aside(partial(codec.tokens, asked))
        return {"count": len(ids), "max_model_len": codec.context, "tokens": ids}

    @routes.post("/detokenize")
    async def detokenize(asked: DetokenizeRequest) -> Any:
        """The text of token ids."""
        return {"prompt": await decoder.aside(partial(codec.text, asked.tokens))}

    @routes.get("/tokenizer_info")
    async def tokenizer_info() -> Any:
        """What clients need that count tokens themselves."""
        return codec.info()

    return routes


def _model_routes(decoder: Decoder) -> APIRouter:
    routes = APIRouter(tags=["server"])
    created = int(time.time())
    served = decoder.settings.model

    def model() -> dict[str, Any]:
        return {
            "id": served,
            "object": "model",
            "created": created,
            "owned_by": "cospec",
            "root": served,
            "parent": None,
            "max_model_len": decoder.codec.context,
            "cospec": _described(decoder.ensemble),
        }

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model()]}

    @routes.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        if name != served:
            raise ApiError(404, f"the model {name!r} is not served, only {served!r}", param="model")
        return model()

    return routes


def _described(ensemble: Ensemble) -> dict[str, Any]:
    """What the page shows of an ensemble, and the schedules and verifications that it offers."""
    combination: dict[str, Any] = {"type": ensemble.combination.name}
    weights = getattr(ensemble.combination, "weights", None)
    if weights is not None:
        combination["weights"] = list(weights)
    own = ensemble.plan.name
    return {
        "members": list(ensemble.member_names),
        "drafters": list(ensemble.drafter_names),
        "combination": combination,
        # A schedule that was given as an object has a name of its own.
        "schedules": sorted({*schedule_names(), own}),
        "verifications": list(VERIFICATIONS),
        "schedule": own,
        "verification": ensemble.plan.verification,
        "prompts": demo.prompts()[:NUM_EXAMPLE_PROMPTS],
    }


def _server_routes(host: Host, metrics: Metrics) -> APIRouter:
    routes = APIRouter(tags=["server"])

    @routes.get("/", include_in_schema=False)
    async def front() -> HTMLResponse:
        return page()

    @routes.get("/health")
    async def health() -> JSONResponse:
        """200 while the engine runs, 503 once it has died."""
        if host.is_healthy:
            return JSONResponse({"status": "ok", "error": None})
        return JSONResponse({"status": "dead", "error": host.error}, 503)

    @routes.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @routes.get("/metrics")
    async def prometheus() -> Response:
        """In Prometheus' text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes

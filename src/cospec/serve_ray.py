"""The server on a Ray cluster: replicas of the application, each with an engine of its own."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from ray import serve
from ray.serve import Application

from .ensemble import Ensemble
from .errors import UnknownName
from .server.app import create_app
from .server.settings import ServerSettings


class EngineDied(RuntimeError):
    """For Ray, which then replaces the replica."""


@serve.deployment(name="cospec", health_check_period_s=2, health_check_timeout_s=30, graceful_shutdown_timeout_s=30)
@serve.ingress()
class Replica:
    """One copy of the application. load: makes the ensemble, once a replica."""

    def __init__(self, load: Callable[[], Ensemble], settings: ServerSettings) -> None:
        self._app = create_app(load(), settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    def check_health(self) -> None:
        """Raises EngineDied, for Ray to put a fresh replica in this one's place."""
        host = self._app.state.host
        if not host.is_healthy:
            raise EngineDied(host.error)


class AppArgs(BaseModel):
    """`args:` of the application in Ray Serve's YAML."""

    model_config = ConfigDict(extra="forbid")

    ensemble: str = Field("demo:we", description="A bundled ensemble, or a YAML file that every node can read.")
    options: dict[str, Any] = Field({}, description="What overrides the file: proposer, schedule, device and so on.")
    settings: dict[str, Any] = Field({}, description="ServerSettings; the model's name is the ensemble's by default.")

    def server_settings(self) -> ServerSettings:
        """Raises UnknownName for a setting that there is not, ValidationError for a value of the wrong type."""
        known = [entry.name for entry in fields(ServerSettings)]
        for name in self.settings:
            if name not in known:
                raise UnknownName("server setting", name, known)
        return TypeAdapter(ServerSettings).validate_python({"model": self.ensemble, **self.settings})


def app(args: AppArgs) -> Application:
    """For `serve run cospec.serve_ray:app` and for `import_path` in a YAML file."""
    return application(partial(Ensemble.load, args.ensemble, **args.options), args.server_settings())


def application(load: Callable[[], Ensemble], settings: ServerSettings) -> Application:
    """The deployment, to be run by Ray Serve. load: makes the ensemble, in each replica."""
    # More than the application takes in, so that it is the one to answer 429, with OpenAI's error.
    most = 2 * (settings.max_sequences + settings.max_waiting)
    deployment: Any = Replica
    bound: Application = deployment.options(max_ongoing_requests=most).bind(load, settings)
    return bound

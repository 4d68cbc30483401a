"""The server on a Ray cluster: replicas of the application, each with an engine of its own."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Annotated, Any

import ray
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from ray import serve
from ray.serve import Application

from .ensemble import Ensemble
from .errors import CospecError, UnknownName
from .members import shared_runners
from .server.access import set_up_logs
from .server.app import create_app
from .server.settings import ServerSettings

NAME = "cospec"
# What the setting `reproducible` asks of ensembles.
_REPRODUCIBLE = {"numerics": "invariant", "verification": "coupled"}


class EngineDied(RuntimeError):
    """Makes Ray replace the replica."""


Loader = Callable[[], Ensemble | Mapping[str, Ensemble]]
"""Loads an ensemble, or several by the names of their models."""


# No access log of Ray's, which would have paths as clients write them. The health is checked often, so that a dead
# engine is soon replaced.
@serve.deployment(
    name=NAME, health_check_period_s=1, health_check_timeout_s=30, logging_config={"enable_access_log": False}
)
@serve.ingress()
class Replica:
    """One copy of the application. load: loads the ensembles, once in each replica."""

    def __init__(self, load: Loader, settings: ServerSettings) -> None:
        set_up_logs(settings.log_level, settings.log_format)
        self._app = create_app(load(), settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    def check_health(self) -> None:
        """Raises EngineDied, so that Ray starts another replica in place of this one."""
        host = self._app.state.host
        if not host.is_healthy:
            raise EngineDied(host.error)


class AppArgs(BaseModel):
    """`args:` of the application in Ray Serve's YAML."""

    model_config = ConfigDict(extra="forbid")

    ensemble: str | Annotated[list[str], Field(min_length=1)] = Field(
        "demo:we", description="A bundled ensemble, or a YAML file that every node can read; or several."
    )
    options: dict[str, Any] = Field({}, description="What overrides the file: proposer, schedule, device and so on.")
    settings: dict[str, Any] = Field({}, description="ServerSettings; the model's name is the ensemble's by default.")

    @property
    def ensembles(self) -> list[str]:
        return [self.ensemble] if isinstance(self.ensemble, str) else self.ensemble

    def load(self) -> Ensemble | dict[str, Ensemble]:
        """Called in each replica."""
        options = {**_REPRODUCIBLE, **self.options} if self.settings.get("reproducible") else self.options
        if isinstance(self.ensemble, str):
            return Ensemble.load(self.ensemble, **options)
        with shared_runners():
            return {name: Ensemble.load(name, **options) for name in self.ensembles}

    def server_settings(self) -> ServerSettings:
        """Raises UnknownName for a setting that does not exist, ValidationError for a value of the wrong type,
        InvalidSettings for one that is not allowed."""
        known = [entry.name for entry in fields(ServerSettings)]
        for name in self.settings:
            if name not in known:
                raise UnknownName("server setting", name, known)
        # A key comes from the environment unless it is set here: a file that is shared should hold none.
        keys = (os.environ["COSPEC_API_KEY"],) if "COSPEC_API_KEY" in os.environ else ()
        own = {"model": self.ensembles[0], "api_keys": keys, **self.settings}
        return TypeAdapter(ServerSettings).validate_python(own)


def app(args: AppArgs) -> Application:
    """The application builder for `serve run cospec.serve_ray:app` and for `import_path` in a YAML file."""
    return application(args.load, args.server_settings())


def application(
    load: Loader,
    settings: ServerSettings,
    *,
    num_replicas: int = 1,
    drain: float = 20.0,
    max_starts: int = 20,
) -> Application:
    """The deployment for Ray Serve; a YAML file's own options override these.

    load: called in each replica. drain: seconds that requests under way have when a replica is stopped.
    max_starts: attempts to start a replica before Ray gives up.
    """
    # More than the application accepts, so that the application itself answers 429, in OpenAI's shape.
    most = 2 * (settings.max_sequences + settings.max_waiting)
    deployment: Any = Replica
    bound: Application = deployment.options(
        max_ongoing_requests=most,
        num_replicas=num_replicas,
        graceful_shutdown_timeout_s=drain,
        max_constructor_retry_count=max_starts,
    ).bind(load, settings)
    return bound


def run(load: Loader, settings: ServerSettings, *, host: str, port: int, num_replicas: int, drain: float) -> None:
    """Serve from so many replicas until SIGTERM or Ctrl-C. drain: seconds that requests under way have then.

    Uses the cluster that RAY_ADDRESS or `ray start` names, or starts one on this machine.
    """
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="error")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(http_options={"host": host, "port": port})
    start(application(load, settings, num_replicas=num_replicas, drain=drain, max_starts=3))
    is_ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: is_ending.set())
    is_ending.wait()
    # Only this application is deleted: Ray Serve may run others.
    while NAME in serve.status().applications:
        with suppress(TimeoutError):
            # `delete` waits for a minute at most, and `drain` may be longer.
            serve.delete(NAME)
    ray.shutdown()


def start(application: Application) -> None:
    """Returns once the replicas are ready. Raises CospecError if they cannot start."""
    try:
        serve.run(application, name=NAME)
    except RuntimeError as error:
        # The message is a traceback, whose last line is the exception.
        *_, reason = serve.status().applications[NAME].deployments[NAME].message.strip().splitlines()
        serve.delete(NAME)
        raise CospecError(f"the replicas cannot start: {reason}") from error

"""`cospec serve`: an ensemble behind OpenAI's endpoints, and a page."""

import ipaddress
import os
import socket
from dataclasses import dataclass, replace
from typing import Annotated

import torch
import typer

from ..errors import CospecError, InvalidEnsemble, MissingExtra
from ..server.settings import ServerSettings
from .options import EnsembleOptions, ServiceOptions
from .output import print_note
from .spread import spread

EXAMPLE = "cospec serve --ensemble demo:we --proposer demo:drafter --port 8000"


class CannotListen(CospecError):
    """An address or port that cannot be had."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions(ServiceOptions):
    """Where the server listens, and what it allows."""

    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(help="The port to listen at; 0 is any free one.", min=0, max=65535)] = 8000
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Admit only requests with one of these keys. Any number of times, or COSPEC_API_KEY.",
            show_default="all are admitted",
        ),
    ] = None
    max_waiting: Annotated[int, typer.Option(help="Sequences that may wait; then clients get 429.", min=0)] = (
        ServerSettings.max_waiting
    )
    max_body: Annotated[int, typer.Option(help="The largest request, in bytes.", min=1)] = ServerSettings.max_body
    origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="A site whose pages may call the server. Any number of times.", show_default="none"
        ),
    ] = None
    drain: Annotated[int, typer.Option(help="Seconds that running requests have to end on SIGTERM.", min=0)] = 30
    threads: Annotated[
        int | None,
        typer.Option(
            help="CPU threads that decode, all in one forward pass at a time.",
            show_default="the fastest of: torch's number, one less, or shares for members in concurrent forward passes",
            min=1,
        ),
    ] = None
    use_ray: Annotated[bool, typer.Option("--ray", help="Serve from replicas on a Ray cluster, or this machine.")] = (
        False
    )
    replicas: Annotated[int, typer.Option(help="With --ray: copies of the ensemble.", min=1)] = 1

    def settings_of(self, models: EnsembleOptions) -> ServerSettings:
        """The server's settings. Raises InvalidEnsemble for an empty key, which would admit nobody, or everybody."""
        keys = self.api_key or ([os.environ["COSPEC_API_KEY"]] if "COSPEC_API_KEY" in os.environ else [])
        if not all(key.strip() for key in keys):
            raise InvalidEnsemble("an API key is empty; leave --api-key out to let everyone in")
        return self.settings(
            models,
            api_keys=tuple(keys),
            max_waiting=self.max_waiting,
            max_body=self.max_body,
            origins=tuple(self.origin or ()),
        )


@spread
def serve(*, options: ServeOptions, models: EnsembleOptions) -> None:
    """Serve an ensemble to OpenAI's clients, with a page.

    The page, at /, shows which model wrote what. Endpoints: /v1/completions, /v1/chat/completions, /v1/models,
    /tokenize, /metrics, /health; all of them at /docs.
    SIGTERM or Ctrl-C ends it once the running requests are answered.
    """
    if options.threads and options.use_ray:
        raise InvalidEnsemble("--threads is for one process; with --ray a replica has the CPUs that Ray gives it")
    settings = options.settings_of(models)
    if not settings.api_keys and not _is_local(options.host):
        print_note(f"anyone who reaches {options.host} may use this server; --api-key asks for a key")
    if options.use_ray:
        _serve_on_ray(models, settings, options)
    else:
        _serve_here(models, settings, options)


def _serve_on_ray(models: EnsembleOptions, settings: ServerSettings, options: ServeOptions) -> None:
    try:
        from ..serve_ray import run
    except ModuleNotFoundError:
        raise MissingExtra("--ray needs Ray: pip install 'cospec[ray]'") from None
    host, port = options.host, options.port
    print_note(f"serving {settings.model} at http://{host}:{port}, once the replicas are ready")
    run(models.build, settings, host=host, port=port, num_replicas=options.replicas, drain=options.drain)


def _serve_here(models: EnsembleOptions, settings: ServerSettings, options: ServeOptions) -> None:
    try:
        import uvicorn

        from ..server.app import create_app
        from ..server.threads import share_cores
    except ModuleNotFoundError:
        raise MissingExtra("the server needs its libraries: pip install 'cospec[serve]'") from None
    if options.threads:
        torch.set_num_threads(options.threads)
    # Bound before the models are loaded, which takes long.
    with _bound(options.host, options.port) as place:
        ensemble = models.build()
        if not options.threads:
            settings = replace(settings, calls_at_once=share_cores(ensemble, options.max_sequences).calls)
        app = create_app(ensemble, settings)
        host, port = place.getsockname()[:2]
        print_note(f"serving {settings.model} at http://{f'[{host}]' if ':' in host else host}:{port}")
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=options.drain)
        uvicorn.Server(config).run(sockets=[place])


def _bound(host: str, port: int) -> socket.socket:
    """A socket at this address, at a free port if it is 0; nothing listens yet. Raises CannotListen."""
    place = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With the protocol named, asyncio sends small packets at once; else each waits for the one before to be read.
        place = socket.socket(family, kind, protocol)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(address)
    except OSError as error:
        if place is not None:
            place.close()
        raise CannotListen(
            f"cannot listen at {host}, port {port}: {error.strerror}; choose others with --host and --port"
        ) from error
    return place


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

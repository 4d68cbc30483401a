"""`cospec serve`: an ensemble behind OpenAI's endpoints, and a page."""

import ipaddress
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import torch
import typer

from ..errors import CospecError, InvalidEnsemble, MissingExtra
from .messages import print_note
from .options import EnsembleOptions
from .spread import spread

EXAMPLE = "cospec serve --ensemble demo:we --proposer demo:drafter --port 8000"


class CannotListen(CospecError):
    """An address or port that cannot be had."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Where the server listens, and what it allows."""

    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(help="The port to listen at.", min=0, max=65535)] = 8000
    model_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What clients call the model.", show_default="the ensemble's name"),
    ] = None
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Let in only who gives one of these. Any number of times, or COSPEC_API_KEY.",
            show_default="everyone is let in",
        ),
    ] = None
    max_sequences: Annotated[int, typer.Option(help="Texts decoded at a time.", min=1)] = 32
    max_waiting: Annotated[int, typer.Option(help="Texts that may wait; then clients get 429.", min=0)] = 256
    context: Annotated[
        int | None,
        typer.Option(help="The most tokens of prompt and answer together.", show_default="the members' own", min=2),
    ] = None
    max_body: Annotated[int, typer.Option(help="The largest request, in bytes.", min=1)] = 4 * 2**20
    origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="A site whose pages may call the server. Any number of times.", show_default="none"
        ),
    ] = None
    drain: Annotated[int, typer.Option(help="Seconds that requests under way have to end on SIGTERM.", min=0)] = 30
    threads: Annotated[
        int | None,
        typer.Option(
            help="CPU threads that decode, all in one call at a time.",
            show_default="as torch has them, one less, or shared out among members called side by side, as is fastest",
            min=1,
        ),
    ] = None
    use_ray: Annotated[bool, typer.Option("--ray", help="Serve from replicas on a Ray cluster, or this machine.")] = (
        False
    )
    replicas: Annotated[int, typer.Option(help="With --ray: copies of the ensemble.", min=1)] = 1

    def keys(self) -> tuple[str, ...]:
        """Raises InvalidEnsemble for an empty key, which would let nobody in, or everybody."""
        given = self.api_key or ([os.environ["COSPEC_API_KEY"]] if "COSPEC_API_KEY" in os.environ else [])
        if not all(key.strip() for key in given):
            raise InvalidEnsemble("an API key is empty; leave --api-key out to let everyone in")
        return tuple(given)


@spread
def serve(*, options: ServeOptions, models: EnsembleOptions) -> None:
    """Serve an ensemble to OpenAI's clients, with a page.

    The page, at /, shows which model wrote what. Endpoints: /v1/completions, /v1/chat/completions, /v1/models,
    /tokenize, /metrics, /health; all of them at /docs.
    SIGTERM or Ctrl-C ends it once the requests under way are answered.
    """
    try:
        import uvicorn

        from ..server.app import create_app
        from ..server.settings import ServerSettings
        from ..server.threads import share_cores
    except ImportError:
        raise MissingExtra("the server needs its libraries: pip install 'cospec[serve]'") from None
    if options.threads:
        if options.use_ray:
            raise InvalidEnsemble("--threads is for one process; with --ray a replica has the CPUs that Ray gives it")
        torch.set_num_threads(options.threads)
    settings = ServerSettings(
        model=options.model_name or models.name,
        api_keys=options.keys(),
        max_sequences=options.max_sequences,
        max_waiting=options.max_waiting,
        context=options.context,
        max_body=options.max_body,
        origins=tuple(options.origin or ()),
    )
    if not settings.api_keys and not _is_local(options.host):
        print_note(f"anyone who reaches {options.host} may use this server; --api-key asks for a key")
    if options.use_ray:
        run = _ray_run()
        print_note(f"serving {settings.model} at http://{options.host}:{options.port}, once the replicas are ready")
        where = {"host": options.host, "port": options.port}
        run(models.build, settings, **where, num_replicas=options.replicas, drain=options.drain)
        return
    # Before the models are loaded, which takes its time.
    with _bound(options.host, options.port) as place:
        ensemble = models.build()
        if options.threads is None:
            settings = replace(settings, calls_at_once=share_cores(ensemble, options.max_sequences).calls)
        config = uvicorn.Config(
            create_app(ensemble, settings),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=options.drain,
        )
        host, port = place.getsockname()[:2]
        print_note(f"serving {settings.model} at http://{f'[{host}]' if ':' in host else host}:{port}")
        uvicorn.Server(config).run(sockets=[place])


def _bound(host: str, port: int) -> socket.socket:
    """A socket at this address, at a free port if it is 0; nothing listens yet. Raises CannotListen."""
    place = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With the protocol named, asyncio sends small pieces at once; else each waits for the one before to be read.
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


def _ray_run() -> Callable[..., None]:
    try:
        from ..serve_ray import run
    except ImportError:
        raise MissingExtra("--ray needs Ray: pip install 'cospec[ray]'") from None
    return run


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

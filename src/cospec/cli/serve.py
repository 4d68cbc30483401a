"""`cospec serve`: ensembles behind OpenAI's endpoints, and a page."""

import ipaddress
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import torch

from ..ensemble import Ensemble
from ..errors import CospecError, InvalidEnsemble, MissingExtra
from ..members import shared_runners
from ..server.settings import ServerSettings
from .environment import with_variables
from .options import DEFAULT_ENSEMBLE, EnsembleOptions, ServiceOptions
from .output import print_note
from .spread import option, spread

EXAMPLE = "cospec serve --ensemble demo:we --proposer demo:drafter --port 8000"


class CannotListen(CospecError):
    """An address or port that cannot be had."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions(ServiceOptions):
    """What the server serves, where it listens, and what it allows."""

    ensemble: list[str] | None = option(
        None,
        metavar="NAME|FILE",
        help="A bundled ensemble (see cospec models) or a YAML file with members, combination and plan. Any number of "
        "times: clients choose by `model`, and equal members are loaded once.",
        show_default=f"{DEFAULT_ENSEMBLE}, where no --member is given",
    )
    model_names: list[str] | None = option(
        None,
        "--model-name",
        metavar="NAME",
        help="The model's name in requests; once for each --ensemble, in order.",
        show_default="the ensemble's name",
    )
    host: str = option("127.0.0.1", help="The address to listen at.")
    port: int = option(8000, help="The port to listen at; 0 is any free one.", min=0, max=65535)
    api_key: list[str] | None = option(
        None,
        metavar="KEY",
        help="Admit only requests with one of these keys. Any number of times.",
        show_default="all are admitted",
    )
    max_waiting: int = option(ServerSettings.max_waiting, help="Sequences that may wait; then clients get 429.", min=0)
    max_body: int = option(ServerSettings.max_body, help="The largest request, in bytes.", min=1)
    origin: list[str] | None = option(
        None, metavar="URL", help="A site whose pages may call the server. Any number of times.", show_default="none"
    )
    drain: int = option(30, help="Seconds that running requests have to end on SIGTERM.", min=0)
    threads: int | None = option(
        None,
        help="CPU threads that decode, all in one forward pass at a time.",
        show_default="the fastest of: torch's number, one less, or shares for members in concurrent forward passes",
        min=1,
    )
    log_level: str = option(
        ServerSettings.log_level,
        metavar="LEVEL",
        help="critical, error, warning, info (a line for each request too, with none of its text) or debug; to stderr.",
    )
    log_format: str = option(ServerSettings.log_format, metavar="FORMAT", help="text, or json for an object a line.")
    use_ray: bool = option(False, "--ray", help="Serve from replicas on a Ray cluster, or this machine.")
    replicas: int = option(1, help="With --ray: copies of the ensemble.", min=1)

    def served(self, models: EnsembleOptions) -> dict[str, EnsembleOptions]:
        """The options of each ensemble, by the name of its model. Raises InvalidEnsemble for names that do not go
        together."""
        if self.ensemble and models.members:
            raise InvalidEnsemble(
                "--ensemble (or COSPEC_ENSEMBLE) and --member (or COSPEC_MEMBER) exclude each other; give one of them"
            )
        each = [replace(models, ensemble=name) for name in self.ensemble] if self.ensemble else [models]
        names = self.model_names or [own.name for own in each]
        if len(names) != len(each):
            raise InvalidEnsemble(f"{len(names)} --model-name for {len(each)} ensembles; give one each, or none")
        for name in names:
            if names.count(name) > 1:
                raise InvalidEnsemble(f"two ensembles are named {name!r}; give each a --model-name of its own")
        return dict(zip(names, each, strict=True))

    def settings_of(self, model: str) -> ServerSettings:
        """The server's settings; `model` is for requests that name none. Raises InvalidEnsemble for an empty key,
        which would admit nobody, or everybody."""
        keys = self.api_key or ([os.environ["COSPEC_API_KEY"]] if "COSPEC_API_KEY" in os.environ else [])
        if not all(key.strip() for key in keys):
            raise InvalidEnsemble("an API key is empty; leave --api-key out to let everyone in")
        return ServerSettings(
            model=model,
            api_keys=tuple(keys),
            max_sequences=self.max_sequences or ServerSettings.max_sequences,
            max_waiting=self.max_waiting,
            context=self.context,
            max_body=self.max_body,
            origins=tuple(self.origin or ()),
            log_level=self.log_level,
            log_format=self.log_format,
        )


@spread
def serve(
    *,
    options: Annotated[ServeOptions, with_variables(ServeOptions)],
    models: Annotated[EnsembleOptions, with_variables(EnsembleOptions, leave_out=["ensemble"])],
) -> None:
    """Serve ensembles to OpenAI's clients, with a page.

    The page, at /, shows which model wrote what. Endpoints: /v1/completions, /v1/chat/completions, /v1/responses,
    /v1/models, /tokenize, /metrics, /health; all of them at /docs.

    Each option may stand in the environment, as named below; the command line goes before it. A variable that is a
    list has white space between its entries, or is a JSON list.

    SIGTERM or Ctrl-C ends it once the running requests are answered.
    """
    if options.threads and options.use_ray:
        raise InvalidEnsemble("--threads is for one process; with --ray a replica has the CPUs that Ray gives it")
    if options.replicas != ServeOptions.replicas and not options.use_ray:
        raise InvalidEnsemble("--replicas are copies on a Ray cluster; give --ray too")
    served = options.served(models)
    settings = options.settings_of(next(iter(served)))
    if not settings.api_keys and not _is_local(options.host):
        print_note(f"anyone who reaches {options.host} may use this server; --api-key asks for a key")
    if options.use_ray:
        _serve_on_ray(served, settings, options)
    else:
        _serve_here(served, settings, options)


def _load(served: Mapping[str, EnsembleOptions]) -> dict[str, Ensemble]:
    """The ensembles, their models loaded, equal ones once."""
    with shared_runners():
        return {name: models.build() for name, models in served.items()}


def _serve_on_ray(served: Mapping[str, EnsembleOptions], settings: ServerSettings, options: ServeOptions) -> None:
    try:
        from ..serve_ray import run
    except ModuleNotFoundError:
        raise MissingExtra("--ray needs Ray: pip install 'cospec[ray]'") from None
    if options.max_sequences is None:
        settings = replace(settings, max_sequences=max(each.max_sequences_of_file() for each in served.values()))
    host, port = options.host, options.port
    print_note(f"serving {', '.join(served)} at http://{host}:{port}, once the replicas are ready")
    run(partial(_load, served), settings, host=host, port=port, num_replicas=options.replicas, drain=options.drain)


def _serve_here(served: Mapping[str, EnsembleOptions], settings: ServerSettings, options: ServeOptions) -> None:
    try:
        import uvicorn

        from ..server.access import set_up_logs
        from ..server.app import create_app
        from ..server.threads import share_cores
    except ModuleNotFoundError:
        raise MissingExtra("the server needs its libraries: pip install 'cospec[serve]'") from None
    if options.threads:
        torch.set_num_threads(options.threads)
    # Bound before the models are loaded, which takes long.
    with _bound(options.host, options.port) as place:
        ensembles = _load(served)
        if options.max_sequences is None:
            settings = replace(settings, max_sequences=max(each.max_sequences for each in ensembles.values()))
        if not options.threads:
            # One after the other decodes, so that what suits the first is taken for all.
            cores = share_cores(ensembles[settings.model], settings.max_sequences)
            settings = replace(settings, calls_at_once=cores.calls)
        app = create_app(ensembles, settings)
        host, port = place.getsockname()[:2]
        print_note(f"serving {', '.join(ensembles)} at http://{f'[{host}]' if ':' in host else host}:{port}")
        set_up_logs(settings.log_level, settings.log_format)
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=options.drain)
        # Once all is answered, uvicorn raises the Ctrl-C that ended it.
        with suppress(KeyboardInterrupt):
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

"""What `cospec serve` does; apart from its options, so that its help comes at once."""

import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

import torch

from ..ensemble import Ensemble
from ..errors import CospecError, MissingExtra
from ..members import shared_runners
from ..server.settings import ServerSettings
from .cores import leave_busy_cores
from .options import EnsembleOptions
from .output import print_note
from .serve import ServeOptions


class CannotListen(CospecError):
    """An address or port that cannot be had."""


def _load(served: Mapping[str, EnsembleOptions]) -> dict[str, Ensemble]:
    """The ensembles, their models loaded, equal ones once."""
    with shared_runners():
        return {name: models.build() for name, models in served.items()}


def serve_on_ray(served: Mapping[str, EnsembleOptions], settings: ServerSettings, options: ServeOptions) -> None:
    try:
        from ..serve_ray import run
    except ModuleNotFoundError:
        raise MissingExtra("--ray needs Ray: pip install 'cospec[ray]'") from None
    if options.max_sequences is None:
        settings = replace(settings, max_sequences=max(each.max_sequences_of_file() for each in served.values()))
    host, port = options.host, options.port
    print_note(f"serving {', '.join(served)} at http://{host}:{port}, once the replicas are ready")
    run(partial(_load, served), settings, host=host, port=port, num_replicas=options.replicas, drain=options.drain)


def serve_here(served: Mapping[str, EnsembleOptions], settings: ServerSettings, options: ServeOptions) -> None:
    try:
        import uvicorn

        from ..server.access import set_up_logs
        from ..server.app import create_app
        from ..server.threads import share_cores
    except ModuleNotFoundError:
        raise MissingExtra("the server needs its libraries: pip install 'cospec[serve]'") from None
    if options.threads:
        torch.set_num_threads(options.threads)
    else:
        leave_busy_cores()
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

"""`cospec serve`: ensembles behind OpenAI's endpoints, and a page."""

import ipaddress
import os
from dataclasses import dataclass, replace
from typing import Annotated

from ..errors import InvalidEnsemble
from ..interrupts import importing
from ..server.settings import ServerSettings
from .environment import with_variables
from .options import DEFAULT_ENSEMBLE, EnsembleOptions, ServiceOptions
from .output import print_note
from .spread import option, spread

EXAMPLE = "cospec serve --ensemble demo:we --proposer demo:drafter --port 8000"


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

    def settings_of(self, model: str, *, reproducible: bool) -> ServerSettings:
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
            reproducible=reproducible,
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
    settings = options.settings_of(next(iter(served)), reproducible=models.reproducible)
    if not settings.api_keys and not _is_local(options.host):
        print_note(f"anyone who reaches {options.host} may use this server; --api-key asks for a key")
    with importing():
        from .serve_run import serve_here, serve_on_ray
    if options.use_ray:
        serve_on_ray(served, settings, options)
    else:
        serve_here(served, settings, options)


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""`cospec batch`: answer a file of requests, and go on where a run was cut off."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InvalidEnsemble, InvalidPrompt, MissingExtra
from ..interrupts import importing
from ..server.settings import ServerSettings
from .options import EnsembleOptions, ServiceOptions
from .spread import option, spread

EXAMPLE = """cospec batch in.jsonl out.jsonl --ensemble demo:we --defaults '{"max_tokens": 64, "seed": 1}'"""


@dataclass(frozen=True, kw_only=True)
class BatchOptions(ServiceOptions):
    """How the requests are answered, and where."""

    model_name: str | None = option(
        None, metavar="NAME", help="The model's name in requests.", show_default="the ensemble's"
    )
    defaults: str = option(
        "{}", metavar="JSON", help="Fields for the requests that do not give them, as one JSON object."
    )
    as_json: bool = option(False, "--json", help="Print the closing counts as a JSON object.")
    threads: int | None = option(None, metavar="N", help="CPU threads.", show_default="as torch has them", min=1)
    use_ray: bool = option(
        False, "--ray", help="Spread the requests over the workers of a Ray cluster, or of this machine."
    )
    workers: int = option(2, help="With --ray: how many workers.", min=1)
    worker_cpus: float = option(1, help="With --ray: CPU cores for each worker.", min=0)
    worker_gpus: float = option(0, help="With --ray: GPUs for each worker.", min=0)

    def settings(self, models: EnsembleOptions) -> ServerSettings:
        """Those of the server that answers."""
        return ServerSettings(
            model=self.model_name or models.name,
            max_sequences=self.max_sequences or models.max_sequences_of_file(),
            context=self.context,
        )

    def check(self) -> None:
        """Raises InvalidEnsemble for options of one process beside `--ray`, and of a cluster without."""
        if self.threads and self.use_ray:
            raise InvalidEnsemble("--threads is for one process; with --ray give each worker --worker-cpus")
        of_cluster = {
            "--workers": self.workers != BatchOptions.workers,
            "--worker-cpus": self.worker_cpus != BatchOptions.worker_cpus,
            "--worker-gpus": self.worker_gpus != BatchOptions.worker_gpus,
        }
        given = [flag for flag, is_given in of_cluster.items() if is_given]
        if given and not self.use_ray:
            raise InvalidEnsemble(f"{', '.join(given)} is for workers on a Ray cluster; give --ray too")

    def fields(self) -> dict[str, Any]:
        """The defaults. Raises InvalidPrompt unless they are an object."""
        try:
            value = json.loads(self.defaults)
        except ValueError as error:
            raise InvalidPrompt(f"--defaults is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise InvalidPrompt(f'--defaults must be an object such as {{"seed": 1}}, got {self.defaults}')
        return value


@spread
def batch(
    requests: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="A request a line.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Gets an answer a line.", show_default=False)],
    *,
    options: BatchOptions,
    models: EnsembleOptions,
) -> None:
    """Answer a file of requests, and go on where it was cut off.

    A line is what OpenAI's batches take, {"custom_id": "a", "url": "/v1/completions", "body": {...}}, or a body itself,
    such as {"prompt": "Once"} or {"messages": [...]}, perhaps with an "id". Its answer has the number of the line.

    A line that is wrong gets an answer that says so, and the others go on. Exit code 2 then. Correct it in IN.jsonl and
    call again: its answer is replaced.

    Called again, it answers what has no answer yet, with or without --ray.
    """
    try:
        with importing():
            from .batch_run import run_batch
    except ModuleNotFoundError:
        raise MissingExtra("batches need the server's libraries: pip install 'cospec[serve]'") from None
    run_batch(requests, out, options, models)

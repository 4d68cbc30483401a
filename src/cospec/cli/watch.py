"""`cospec watch`: whether a server still performs as in its pilot."""

from pathlib import Path
from typing import Annotated

import typer

from ..interrupts import importing

EXAMPLE = "cospec watch http://localhost:8000 --pilot pilot/results.json --every 60"


def watch(
    url: Annotated[str, typer.Argument(metavar="URL", help="The server's address, such as http://localhost:8000.")],
    pilot: Annotated[Path, typer.Option(metavar="results.json", help="What its pilot found.")] = Path(
        "pilot/results.json"
    ),
    every: Annotated[float, typer.Option(metavar="SECONDS", help="How long a window of service is.", min=1)] = 60,
    once: Annotated[bool, typer.Option("--once", help="Look at all since the server's start, once.")] = False,
    tolerance: Annotated[
        float, typer.Option(help="By what share a figure may be worse than the pilot's.", min=0)
    ] = 0.25,
    api_key: Annotated[str | None, typer.Option(envvar="COSPEC_API_KEY", help="One that the server knows.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a window instead of a table.")] = False,
) -> None:
    """Compare a server with the pilot that it came from.

    Acceptance and latency of each window of service, against the criteria and the pilot's own figures. Exit code by the
    last window: 0 if nothing had drifted, 1 if something had, 4 if too few tokens were decoded to say; 2 where the
    server decodes something else than the pilot, or is no `cospec serve`. Under `auto` the planner keeps measuring and
    changes its plan by itself; it cannot make up for a workload that differs from the pilot's: run the pilot again.
    """
    with importing():
        from .watch_run import run_watch
    run_watch(url, pilot, every=None if once else every, tolerance=tolerance, api_key=api_key, as_json=as_json)

"""`cospec watch`: whether a server still performs as in its pilot."""

import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..errors import InvalidPilot
from ..study.metrics import Service, fetch, read_service
from ..study.results import Results
from ..study.watch import Watch
from ..study.watch import watch as compared
from .output import Interrupt, print_note, to_line

EXAMPLE = "cospec watch http://localhost:8000 --pilot pilot/results.json --every 60"

DRIFTED = 1
# The failed readings in a row after which the watch ends.
MOST_MISSED = 5
_COLOURS = {"steady": "green", "drifted": "red", "too few": "yellow"}


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

    Acceptance and latency of each window of service, against the criteria and the pilot's own figures. Exit code 1 if
    the last window had drifted. Under `auto` the planner keeps measuring and changes its plan by itself; it cannot make
    up for a workload that differs from the pilot's: then run the pilot again.
    """
    results = Results.load(pilot)
    compare = partial(compared, results, tolerance=tolerance, schedule=_schedule(url, api_key))
    before = read_service(url, api_key)
    if once:
        found = compare(before)
        _show(found, as_json)
    else:
        found = _windows(partial(read_service, url, api_key), compare, before, every, as_json)
    if found.has_drifted:
        raise typer.Exit(DRIFTED)


def _windows(
    read: Callable[[], Service], compare: Callable[[Service], Watch], before: Service, every: float, as_json: bool
) -> Watch:
    """Window after window, until Ctrl-C; returns the last. A server that does not answer may be restarting.

    Raises InvalidPilot once it has not answered MOST_MISSED times in a row.
    """
    found, num_missed = compare(before.since(before)), 0
    with Interrupt() as interrupt:
        while not interrupt.is_noted():
            _wait(every, interrupt)
            try:
                now = read()
            except InvalidPilot as error:
                num_missed += 1
                if num_missed == MOST_MISSED:
                    raise
                print_note(f"{error}; trying again ({num_missed} of {MOST_MISSED})")
                continue
            found, before, num_missed = compare(now.since(before)), now, 0
            _show(found, as_json)
    return found


def _wait(seconds: float, interrupt: Interrupt) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not interrupt.is_noted():
        time.sleep(0.1)


def _schedule(url: str, key: str | None) -> str | None:
    """The schedule that the server reports; None if it reports none."""
    try:
        models = json.loads(fetch(f"{url.rstrip('/')}/v1/models", key))
        return str(models["data"][0]["cospec"]["schedule"])
    except (InvalidPilot, ValueError, LookupError, TypeError):
        return None


def _show(found: Watch, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(to_line(found.to_dict()))
        sys.stdout.flush()
        return
    title = f"{datetime.now():%H:%M:%S}: {found.tokens:.0f} tokens served; {_advice(found)}"
    table = Table("figure", "from", title=title)
    for column in ("pilot", "now", "limit"):
        table.add_column(column, justify="right")
    table.add_column("")
    for reading in found.readings:
        source = "criteria" if reading.is_criterion else "pilot"
        # A percentile is known to lie above the lower bound of its bucket only.
        now = f"> {_written(reading.now)}" if reading.now and "." in reading.name else _written(reading.now)
        figures = (_written(reading.pilot), now, _written(reading.limit))
        table.add_row(reading.name, source, *figures, f"[{_COLOURS[reading.status]}]{reading.status}[/]")
    Console().print(table)


def _written(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _advice(found: Watch) -> str:
    if not found.has_drifted:
        return "nothing has drifted"
    if found.schedule == "auto":
        return "drifted: auto retunes its plan as it measures; if it stays so, run the pilot again"
    return "drifted: its plan is fixed; run `cospec pilot` or `cospec tune` again, or serve it under `schedule: auto`"

"""What `cospec watch` does; apart from its options, so that its help comes at once."""

import json
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import typer
from rich.text import Text

from ..errors import InvalidPilot
from ..study.metrics import Service, fetch, read_service
from ..study.results import Results
from ..study.watch import OtherEnsemble, Reading, ServedEnsemble, Watch, same
from ..study.watch import watch as compared
from .output import Interrupt, print_json, print_note
from .tables import Cell, FittedTable, TableColumn, print_tables

# The exit status by the last window's; 2 is an error, as of all commands.
EXIT_CODES = {"steady": 0, "drifted": 1, "too few": 4}
# The failed readings in a row after which the watch ends.
MOST_MISSED = 5
_COLOURS = {"steady": "green", "drifted": "red", "too few": "yellow"}


def run_watch(
    url: str, pilot: Path, *, every: float | None, tolerance: float, api_key: str | None, as_json: bool
) -> None:
    """every: seconds of a window; None to look once, at all since the server's start. Raises typer.Exit."""
    results = Results.load(pilot)
    before, schedule = _watched(url, api_key, results)
    compare = partial(compared, results, tolerance=tolerance, schedule=schedule)
    if every is None:
        found = compare(before)
        _show(found, as_json)
    else:
        # Asked each time what it decodes: it may be another server after a restart.
        found = _windows(lambda: _watched(url, api_key, results)[0], compare, before, every, as_json)
    raise typer.Exit(EXIT_CODES[found.status])


def _windows(
    read: Callable[[], Service], compare: Callable[[Service], Watch], before: Service, every: float, as_json: bool
) -> Watch:
    """Window after window, until Ctrl-C; returns the last. A server that does not answer may be restarting.

    Raises InvalidPilot once it has not answered MOST_MISSED times in a row, OtherEnsemble where it answers as another.
    """
    found, num_missed = compare(before.since(before)), 0
    with Interrupt() as interrupt:
        while not interrupt.is_noted():
            _wait(every, interrupt)
            try:
                now = read()
            except OtherEnsemble:
                raise
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


def _models(url: str, key: str | None) -> dict[str, ServedEnsemble]:
    """What the server decodes, by the name of the model. Raises InvalidPilot where it is no `cospec serve`."""
    address = f"{url.rstrip('/')}/v1/models"
    text = fetch(address, key)
    try:
        listed = [(str(model["id"]), model["cospec"]) for model in json.loads(text)["data"]]
        return {
            name: ServedEnsemble(
                members=tuple(own["members"]),
                drafters=tuple(own["drafters"]),
                target=own.get("target"),
                schedule=own.get("schedule"),
            )
            for name, own in listed
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InvalidPilot(f"{address} names no ensemble of `cospec serve`; give the address of one") from None


def _watched(url: str, key: str | None, results: Results) -> tuple[Service, str | None]:
    """The counters of what the pilot measured, and its schedule. Raises OtherEnsemble where something else is decoded,
    and InvalidPilot where the server is no `cospec serve`."""
    models = _models(url, key)
    name = same(results, models)
    # Replicas behind one address may count under several names where they serve one ensemble.
    return read_service(url, key, name if len(models) > 1 else None), models[name].schedule


def _show(found: Watch, as_json: bool) -> None:
    if as_json:
        print_json(found.to_dict())
        return
    since = " since the server was restarted" if found.is_restarted else ""
    numbers = [TableColumn(name=name, is_number=True) for name in ("pilot", "now", "limit")]
    table = FittedTable(
        title=f"{datetime.now():%H:%M:%S}: {found.tokens:.0f} tokens served{since}; {_advice(found)}",
        columns=[
            TableColumn(name="figure", priority=0),
            TableColumn(name="from"),
            *numbers,
            TableColumn(name="status"),
        ],
        rows=[_row(reading) for reading in found.readings],
    )
    print_tables(table)


def _row(reading: Reading) -> list[Cell]:
    source = "criteria" if reading.is_criterion else "pilot"
    # A percentile is known to lie above the lower bound of its bucket only.
    now = f"> {_written(reading.now)}" if reading.now and "." in reading.name else _written(reading.now)
    figures = (_written(reading.pilot), now, _written(reading.limit))
    return [reading.name, source, *figures, Text(reading.status, _COLOURS[reading.status])]


def _written(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _advice(found: Watch) -> str:
    if found.status == "too few":
        return "too few tokens to say"
    if found.status == "steady":
        few = dict.fromkeys(reading.name for reading in found.readings if reading.status == "too few")
        return "nothing has drifted" + (f"; too few to say of {', '.join(few)}" if few else "")
    if found.schedule == "auto":
        return "drifted: auto retunes its plan as it measures; if it stays so, run the pilot again"
    return "drifted: its plan is fixed; run `cospec pilot` or `cospec tune` again, or serve it under `schedule: auto`"

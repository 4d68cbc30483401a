"""`cospec models`: what comes with the package, and runs offline."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from .. import demo
from .bundle import BundledEnsemble, BundledModel, read_ensemble, read_model
from .jsonline import to_line

EXAMPLE = "cospec models --json"

# Where lines need not fit a window.
_WIDE = 1000


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the bundled models and ensembles."""
    bundled = [read_model(name) for name in demo.models()]
    ensembles = [read_ensemble(name) for name in demo.ensembles()]
    if as_json:
        sys.stdout.write(to_line({"models": list(map(asdict, bundled)), "ensembles": list(map(asdict, ensembles))}))
    else:
        _print("model", bundled)
        _print("ensemble", ensembles)


def _print(kind: str, rows: Sequence[BundledModel | BundledEnsemble]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDE
    table = Table(box=None, pad_edge=False)
    for column in (kind, "parameters", "what it is", "path"):
        table.add_column(column, overflow="fold", no_wrap=column in (kind, "parameters"))
    for row in rows:
        table.add_row(row.name, _millions(row.parameters), row.description, row.path)
    console.print(table)
    console.print()


def _millions(count: int | None) -> str:
    return "not there yet" if count is None else f"{count / 1e6:.2f} M"

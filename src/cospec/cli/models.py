"""`cospec models`: what comes with the package, and runs offline."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from .. import demo
from .bundle import BundledEnsemble, BundledModel, read_ensemble, read_model
from .jsonline import to_line
from .tables import FittedTable, TableColumn, print_tables

EXAMPLE = "cospec models --json"


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the bundled models and ensembles."""
    bundled = [read_model(name) for name in demo.models()]
    ensembles = [read_ensemble(name) for name in demo.ensembles()]
    if as_json:
        sys.stdout.write(to_line({"models": list(map(asdict, bundled)), "ensembles": list(map(asdict, ensembles))}))
    else:
        print_tables(_table("model", bundled), _table("ensemble", ensembles))


def _table(kind: str, rows: Sequence[BundledModel | BundledEnsemble]) -> FittedTable:
    columns = [
        TableColumn(name=kind),
        TableColumn(name="parameters", is_number=True),
        TableColumn(name="what it is", wraps=True),
        TableColumn(name="path", priority=2),
    ]
    cells = [(row.name, _millions(row.parameters), row.description, row.path) for row in rows]
    return FittedTable(columns=columns, rows=cells)


def _millions(count: int | None) -> str:
    return "not there yet" if count is None else f"{count / 1e6:.2f} M"

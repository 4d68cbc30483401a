"""`cospec models`: the models and ensembles that come with the package and run offline, read without loading them."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
import yaml

from .. import demo
from .output import print_json
from .tables import FittedTable, TableColumn, print_tables

EXAMPLE = "cospec models --json"


@dataclass(frozen=True, kw_only=True)
class BundledModel:
    """A model's folder, described. parameters: None while its weights are not there."""

    name: str
    description: str
    architecture: str
    parameters: int | None
    context: int | None
    path: str

    @classmethod
    def read(cls, name: str) -> "BundledModel":
        folder = Path(demo.model_path(name))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        num_layers, width = config["num_hidden_layers"], config["hidden_size"]
        return cls(
            name=name,
            description=_training_data(folder / "README.md"),
            architecture=f"{config['model_type']}, {num_layers} layers of width {width}",
            parameters=_num_parameters(folder / "model.safetensors"),
            context=config.get("max_position_embeddings"),
            path=str(folder),
        )


@dataclass(frozen=True, kw_only=True)
class BundledEnsemble:
    """An ensemble's file, described. parameters: of its distinct models, None while one is not there."""

    name: str
    description: str
    combination: str
    members: list[str]
    parameters: int | None
    path: str

    @classmethod
    def read(cls, name: str) -> "BundledEnsemble":
        path = demo.ensemble_path(name)
        text = path.read_text(encoding="utf-8")
        settings = yaml.safe_load(text)
        members = [entry["model"] if isinstance(entry, dict) else entry for entry in settings["members"]]
        counts = [BundledModel.read(each).parameters if each in demo.models() else None for each in set(members)]
        known = [count for count in counts if count is not None]
        return cls(
            name=name,
            description=" ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#")),
            combination=settings["combine"]["type"],
            members=members,
            parameters=sum(known) if len(known) == len(counts) else None,
            path=str(path),
        )


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the bundled models and ensembles."""
    bundled = [BundledModel.read(name) for name in demo.models()]
    ensembles = [BundledEnsemble.read(name) for name in demo.ensembles()]
    if as_json:
        print_json({"models": list(map(asdict, bundled)), "ensembles": list(map(asdict, ensembles))})
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


def _training_data(card: Path) -> str:
    """The items of the model card's list, without what they have in brackets; of a drafter, what it was begun as."""
    if not card.is_file():
        return ""
    text = card.read_text(encoding="utf-8")
    items = [line[2:].split(" (")[0] for line in text.splitlines() if line.startswith("- ")]
    origin = re.search(r"continues from (.*?) \|", text)
    return "; ".join(items) or (f"begun as {origin[1].replace('`', '')}" if origin else "")


def _num_parameters(weights: Path) -> int | None:
    """From the file's header: its length in eight bytes, then each tensor's shape as JSON."""
    if not weights.is_file():
        return None
    with weights.open("rb") as file:
        header: dict[str, dict[str, list[int]]] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")

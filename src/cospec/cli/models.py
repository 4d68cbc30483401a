"""`cospec models`: the models and ensembles that come with the package, and the real model if there, read unloaded."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from .. import demo
from .output import print_json
from .tables import FittedTable, TableColumn, print_tables

EXAMPLE = "cospec models --json"


@dataclass(frozen=True, kw_only=True)
class BundledModel:
    """A model described. parameters: its own, an adapter's without its base's; None while its weights are not there."""

    name: str
    description: str
    architecture: str
    parameters: int | None
    context: int | None
    path: str | None

    @classmethod
    def read(cls, name: str) -> "BundledModel":
        if name == demo.SMOLLM2:
            return cls._real()
        folder = Path(demo.model_path(name))
        if name in demo.adapters():
            return cls._adapter(name, folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return cls(
            name=name,
            description=_training_data(folder / "README.md"),
            architecture=_architecture(config),
            parameters=_num_parameters(folder / "model.safetensors"),
            context=config.get("max_position_embeddings"),
            path=str(folder),
        )

    @classmethod
    def _real(cls) -> "BundledModel":
        is_there = demo.has_smollm2()
        return cls(
            name=demo.SMOLLM2,
            description="SmolLM2-135M-Instruct" if is_there else f"not installed: {demo.HOW_TO_GET_SMOLLM2}",
            architecture=_architecture(demo.SMOLLM2_SHAPE),
            parameters=demo.SMOLLM2_PARAMETERS if is_there else None,
            context=demo.SMOLLM2_CONTEXT,
            path=demo.model_path(demo.SMOLLM2) if is_there else None,
        )

    @classmethod
    def _adapter(cls, name: str, folder: Path) -> "BundledModel":
        drafter = folder / "cospec.json"
        own = json.loads(drafter.read_text(encoding="utf-8")) if drafter.is_file() else {}
        if "head" in own:
            return cls._head(name, folder, own)
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base, rank, layers = settings["base_model_name_or_path"], settings["r"], own.get("layers")
        return cls(
            name=name,
            description=_training_data(folder / "README.md")
            if layers is None
            else f"drafts by {layers} layers of {base}",
            architecture=f"LoRA of rank {rank} on {base}",
            parameters=_num_parameters(folder / "adapter_model.safetensors"),
            context=demo.SMOLLM2_CONTEXT,
            path=str(folder),
        )

    @classmethod
    def _head(cls, name: str, folder: Path, own: Mapping[str, Any]) -> "BundledModel":
        head = own["head"]
        return cls(
            name=name,
            description=f"drafts by the hidden states of {head['members']} members on {own['base']}",
            architecture=f"drafting head of width {head['width']} on {own['base']}",
            parameters=_num_parameters(folder / "head.safetensors"),
            context=None,
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
        # An adapter's base is held once, whether or not it is a member too.
        bases = {demo.SMOLLM2} if set(members) & set(demo.adapters()) else set()
        counts = [_parameters(each) for each in {*members, *bases}]
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
    bundled = [BundledModel.read(name) for name in (*demo.models(), demo.SMOLLM2, *demo.adapters())]
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
    cells = [(row.name, _millions(row.parameters), row.description, row.path or "") for row in rows]
    return FittedTable(columns=columns, rows=cells)


def _parameters(name: str) -> int | None:
    is_known = name in (demo.SMOLLM2, *demo.models(), *demo.adapters())
    return BundledModel.read(name).parameters if is_known else None


def _architecture(config: Mapping[str, Any]) -> str:
    return f"{config['model_type']}, {config['num_hidden_layers']} layers of width {config['hidden_size']}"


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

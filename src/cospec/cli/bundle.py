"""What is to be known of a bundled model or ensemble without loading it."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import yaml

from .. import demo


@dataclass(frozen=True, kw_only=True)
class BundledModel:
    """A model's folder, described. parameters: None while its weights are not there."""

    name: str
    description: str
    architecture: str
    parameters: int | None
    context: int | None
    path: str


@dataclass(frozen=True, kw_only=True)
class BundledEnsemble:
    """An ensemble's file, described. parameters: of its distinct models, None while one is not there."""

    name: str
    description: str
    combination: str
    members: list[str]
    parameters: int | None
    path: str


def read_model(name: str) -> BundledModel:
    folder = Path(demo.model_path(name))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return BundledModel(
        name=name,
        description=_training_data(folder / "README.md"),
        architecture=f"{config['model_type']}, {config['num_hidden_layers']} layers of width {config['hidden_size']}",
        parameters=_num_parameters(folder / "model.safetensors"),
        context=config.get("max_position_embeddings"),
        path=str(folder),
    )


def read_ensemble(name: str) -> BundledEnsemble:
    path = demo.ensemble_path(name)
    text = path.read_text(encoding="utf-8")
    settings = yaml.safe_load(text)
    members = [entry["model"] if isinstance(entry, dict) else entry for entry in settings["members"]]
    return BundledEnsemble(
        name=name,
        description=" ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#")),
        combination=settings["combine"]["type"],
        members=members,
        parameters=_num_together(set(members)),
        path=str(path),
    )


def _training_data(card: Path) -> str:
    """The items of the card's list, which is that of its training data, without what they have in brackets."""
    if not card.is_file():
        return ""
    items = [line[2:] for line in card.read_text(encoding="utf-8").splitlines() if line.startswith("- ")]
    return "; ".join(item.split(" (")[0] for item in items)


def _num_parameters(weights: Path) -> int | None:
    """From the file's header: its length in eight bytes, then each tensor's shape as JSON."""
    if not weights.is_file():
        return None
    with weights.open("rb") as file:
        header: dict[str, dict[str, list[int]]] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _num_together(names: set[str]) -> int | None:
    """Of these bundled models, each counted once."""
    counts = [read_model(name).parameters if name in demo.models() else None for name in names]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None

"""The folder that a distillation ends in, which `--proposer` takes: weights and `cospec.json`."""

import json
from pathlib import Path
from typing import Any

from ..runner.hf.trainable import FirstLayers
from ..runner.parts import DRAFTER
from ..runner.protocol import Tokenizer
from ..storage import keep
from .recipe import TrainingRecipe


def write_drafter(
    out: Path, layers: FirstLayers, recipe: TrainingRecipe, tokenizer: Tokenizer | None, acceptance: float
) -> int:
    """Write the trained parameters what else a loader needs, and what `auto` begins with; the bytes of the weights."""
    written = layers.save(out)
    own: dict[str, Any] = {"acceptance": round(acceptance, 4)}
    if layers.is_adapter:
        own["layers"] = recipe.layers
    if layers.vocabulary is not None:
        own["vocabulary"] = layers.vocabulary
    keep(out / DRAFTER, json.dumps(own) + "\n")
    # Members are told to be of one tokenizer by its entries; an adapter's base has it.
    save = getattr(tokenizer, "save", None)
    if save is not None and not layers.is_adapter:
        save(out)
    return written.stat().st_size

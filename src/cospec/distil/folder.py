"""The folder that a distillation ends in, which `--proposer` takes: weights and `cospec.json`."""

import json
from pathlib import Path

from ..runner.parts import DRAFTER
from ..runner.protocol import Tokenizer
from ..storage import keep
from .pupil import Pupil


def write_drafter(out: Path, pupil: Pupil, base: str, tokenizer: Tokenizer | None, acceptance: float) -> int:
    """Write the trained parameters, what else a loader needs, and what `auto` begins with; the bytes of the weights."""
    weights = pupil.save(out)
    own = {"acceptance": round(acceptance, 4), **pupil.description(base)}
    if pupil.vocabulary is not None:
        own["vocabulary"] = [*pupil.vocabulary]
    keep(out / DRAFTER, json.dumps(own) + "\n")
    # Members are told to be of one tokenizer by its entries.
    save = getattr(tokenizer, "save", None)
    if save is not None and pupil.is_whole:
        save(out)
    return weights.stat().st_size

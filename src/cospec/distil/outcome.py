"""What a distillation came to, and what is kept of it between runs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..errors import InvalidDistillation
from ..resume import check_settings, plain
from ..storage import keep, to_json

# In the output folder: what a run goes on from, of which the record says what was asked.
WORK, RECORD, TEXTS, HIDDEN, CHECKPOINT = "work", "run.json", "texts.jsonl", "hidden.bf16", "checkpoint.pt"
_REMEDY = "Give the same settings to go on, or another --out"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """acceptance_before, acceptance_after: of drafts behind the held-out texts' tokens, of what was trained before
    and after it was. num_parameters: that were trained. num_bytes: of their file. vocabulary: tokens that may be
    proposed. seconds: of training."""

    acceptance_before: float
    acceptance_after: float
    steps: int
    seconds: float
    num_parameters: int
    num_bytes: int
    vocabulary: int
    num_texts: int
    num_tokens: int
    num_held_out_prompts: int
    num_held_out_tokens: int


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What was asked, and what is known so far. acceptance_before: None until it was measured. outcome: None until the
    drafter is written."""

    settings: dict[str, Any]
    acceptance_before: float | None = None
    outcome: Outcome | None = None

    @classmethod
    def load(cls, out: Path, settings: Mapping[str, Any]) -> "RunRecord":
        """The record of an earlier run with these settings, or a new one for a folder that holds nothing else.

        Raises InvalidDistillation, with both values, for a run of other settings, and for any other folder.
        """
        path = out / WORK / RECORD
        if not path.exists():
            _check_free(out)
            return cls(settings=plain(settings))
        try:
            record = TypeAdapter(cls).validate_json(path.read_bytes())
        except OSError as error:
            raise InvalidDistillation(f"{path} cannot be read: {error.strerror or error}") from None
        except ValidationError:
            raise InvalidDistillation(f"{path} is no record of cospec distil; give another --out") from None
        check_settings(f"{out}", record.settings, settings, _REMEDY, InvalidDistillation)
        return record

    def save(self, out: Path) -> None:
        keep(out / WORK / RECORD, to_json(asdict(self)))

    def with_before(self, acceptance: float) -> "RunRecord":
        return replace(self, acceptance_before=acceptance)


def _check_free(out: Path) -> None:
    """Raises InvalidDistillation for a folder that holds anything but texts that were taken along."""
    if out.exists() and not out.is_dir():
        raise InvalidDistillation(f"--out {out} is a file; give a folder")
    if other := sorted(entry.name for entry in out.iterdir() if entry.name != WORK) if out.exists() else []:
        raise InvalidDistillation(
            f"--out {out} holds {other[0]!r} and no run of cospec distil; give a new folder, or an empty one"
        )

"""The two corpora, each split into training and held-out documents: GSM8K and CPython's standard library."""

import hashlib
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NUM_HELD_OUT_ROWS = 500
HELD_OUT_FILES_ONE_IN = 20
SKIPPED_FOLDERS = {"site-packages", "test", "tests", "idle_test", "__pycache__", "encodings", "pydoc_data"}


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents as text. `held_out` is never trained on."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def gsm8k(path: Path) -> Corpus:
    """Questions with their worked answers, one document a row; the last 500 rows are held out."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    documents = tuple(f"Question: {row['question']}\nAnswer: {row['answer']}" for row in rows)
    return Corpus(train=documents[:-NUM_HELD_OUT_ROWS], held_out=documents[-NUM_HELD_OUT_ROWS:])


def standard_library() -> Corpus:
    """The installed standard library's source, one document a file; one file in twenty is held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    train, held_out = [], []
    for path in sorted(_sources(root)):
        name = path.relative_to(root).as_posix()
        text = f"# {name}\n{path.read_text(encoding='utf-8', errors='ignore')}"
        # By a hash of the name, so that the split is the same whichever files an installation has.
        is_held_out = hashlib.sha256(name.encode()).digest()[0] % HELD_OUT_FILES_ONE_IN == 0
        (held_out if is_held_out else train).append(text)
    return Corpus(train=tuple(train), held_out=tuple(held_out))


def _sources(root: Path) -> Iterator[Path]:
    for path in root.rglob("*.py"):
        if not SKIPPED_FOLDERS & set(path.relative_to(root).parts):
            yield path

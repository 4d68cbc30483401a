"""Result files: written whole or not at all, and in JSON that every reader accepts."""

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import CospecError


def keep(path: Path, text: str) -> None:
    """Write a file beside its place and move it there: an interruption or a full disk leaves no half of it.

    Raises CospecError where it cannot be written; the former file is then unchanged.
    """
    with _beside(path) as (target, beside):
        beside.write_text(text, encoding="utf-8")
        if target.exists():
            shutil.copymode(target, beside)
        beside.replace(target)


def check_place(path: Path) -> None:
    """Raises CospecError where `keep` could not write; to be called before the work whose result is kept."""
    with _beside(path) as (_, beside):
        beside.touch()
        beside.unlink()


@contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, Path]]:
    """The file that `path` is or links to, and a temporary path beside it, in a folder that exists afterwards."""
    try:
        target = path.resolve()
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if target.exists() and not target.is_file():
            raise OSError(errno.EINVAL, "it is no regular file")
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f"{target.name}.new")
        try:
            yield target, beside
        except OSError:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise refusal(path, error) from None


def refusal(path: Path, error: OSError) -> CospecError:
    """What a user is told where a file of results cannot be written, such as on a full disk."""
    what = f"{path} cannot be written: {error.strerror or error}"
    if isinstance(error, FileNotFoundError):
        return CospecError(f"{what}; its folder {str(path.parent)!r} is not there: make it, or give another place")
    return CospecError(
        f"{what}. What was kept before is there still; make room or give --out another place, and run the same command "
        "to go on"
    )


def to_json(value: object) -> str:
    """JSON that every reader accepts, in ASCII: numbers that are not finite, such as log 0, become null."""
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

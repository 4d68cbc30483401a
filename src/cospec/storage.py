"""Files of what was measured: whole or not at all, and in JSON that every reader takes."""

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
    """Written beside and moved, so that an interruption or a full disk never leaves half a file.

    Raises CospecError where it cannot be written; what stood there before stands there still.
    """
    with _beside(path) as (target, beside):
        beside.write_text(text, encoding="utf-8")
        if target.exists():
            shutil.copymode(target, beside)
        beside.replace(target)


def check_place(path: Path) -> None:
    """Raises CospecError where `keep` could not write, before work is done for it."""
    with _beside(path) as (_, beside):
        beside.touch()
        beside.unlink()


@contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, Path]]:
    """The file that `path` is or points to, in a folder that there is now, and where to write what then becomes it."""
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
        raise CospecError(
            f"{path} cannot be written: {error.strerror or error}. What was kept before is there still; "
            "make room or give --out another place, and run the same command to go on"
        ) from None


def to_json(value: object) -> str:
    """JSON that every reader takes, in ASCII: what is not finite, such as the logarithm of zero, becomes null."""
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

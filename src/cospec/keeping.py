"""Files of what was measured: whole or not at all, and in JSON that every reader takes."""

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import CospecError


def keep(path: Path, text: str) -> None:
    """Written beside and moved, so that an interruption or a full disk never leaves half a file.

    Raises CospecError where it cannot be written; what stood there before stands there still.
    """
    with _beside(path) as beside:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)


def check_place(path: Path) -> None:
    """Raises CospecError where `keep` could not write, before work is done for it."""
    with _beside(path) as beside:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        beside.touch()
        beside.unlink()


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Where to write what then becomes `path`."""
    beside = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
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

"""A file of results, a line each, that a later run of the same command goes on with."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import CospecError
from .output import to_line


def finished(path: Path, identify: Callable[[Mapping[str, Any]], int | None], hint: str) -> set[int]:
    """Numbers of the results that the file has, none if there is no file.

    identify: the number of a result, None for an object that is no result. Raises CospecError, with the hint, then.
    """
    try:
        lines = _whole_lines(path.read_bytes())
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise CospecError(f"the results in {str(path)!r} cannot be read: {error}") from None
    numbers = set()
    for place, line in enumerate(lines, start=1):
        value = _parsed(line)
        number = identify(value) if value is not None else None
        if number is None:
            raise CospecError(f"{path}:{place} is {hint}")
        numbers.add(number)
    return numbers


class LineFile:
    """Appends objects, a line each; an incomplete last line is dropped first. option: the file's name in messages."""

    def __init__(self, path: Path, option: str) -> None:
        try:
            # Made if it is missing, and never emptied.
            self._file = path.open("a+b")
            self._file.seek(0)
            raw = self._file.read()
            length = sum(len(line) + 1 for line in _whole_lines(raw))
            if length > len(raw):
                # The last line is complete but for its newline.
                self._file.write(b"\n")
            else:
                self._file.truncate(length)
        except OSError as error:
            raise CospecError(f"{option} {str(path)!r} cannot be written: {error.strerror or error}") from None

    def append(self, value: Mapping[str, object]) -> None:
        self._file.write(to_line(value).encode())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _whole_lines(raw: bytes) -> list[bytes]:
    """All but the incomplete line that a run leaves which is killed while it writes."""
    *lines, last = raw.split(b"\n")
    is_incomplete = last.startswith(b"{") and _parsed(last) is None
    return [*lines, last] if last and not is_incomplete else lines


def _parsed(line: bytes) -> Mapping[str, Any] | None:
    """The object of this line, None where it holds none."""
    try:
        value = json.loads(line.decode())
    except ValueError:
        return None
    return value if isinstance(value, dict) else None

"""A file of results, a line each, that a later run of the same command goes on with."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.events import Event, Result
from ..errors import CospecError
from .jsonline import to_line
from .prompts import PromptEntry
from .records import record


def finished_prompts(path: Path, num_prompts: int) -> set[int]:
    """Indices of the prompts that the file has results for. Raises CospecError for a file that is none of ours."""

    def index(value: Mapping[str, Any]) -> int | None:
        own = value.get("index")
        return own if isinstance(own, int) and 0 <= own < num_prompts else None

    hint = f"no result of these {num_prompts} prompts; give --out another file, or remove the line"
    return finished(path, index, hint)


def finished(path: Path, identify: Callable[[Mapping[str, Any]], int | None], hint: str) -> set[int]:
    """What the lines of the file are results of, none if there is no file.

    identify: the number of what an object is the result of, or None. Raises CospecError, with the hint, for that.
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


def _whole_lines(raw: bytes) -> list[bytes]:
    """All but the half line that a run leaves which is killed while it writes."""
    *lines, last = raw.split(b"\n")
    is_half = last.startswith(b"{") and _parsed(last) is None
    return [*lines, last] if last and not is_half else lines


def _parsed(line: bytes) -> Mapping[str, Any] | None:
    """The object of this line, None where it holds none."""
    try:
        value = json.loads(line.decode())
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


class LineFile:
    """Appends objects, a line each; a half line at the end is dropped first. option: how messages name the file."""

    def __init__(self, path: Path, option: str) -> None:
        try:
            # Made if it is missing, and never emptied.
            self._file = path.open("a+b")
            self._file.seek(0)
            raw = self._file.read()
            length = sum(len(line) + 1 for line in _whole_lines(raw))
            if length > len(raw):
                # Whole but for its end.
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


class ResultFile:
    """Appends an object a prompt once all its texts are finished; a prompt that failed or was aborted is left out.

    entries: all prompts. todo: the indices of those that are decoded now.
    """

    def __init__(self, path: Path, entries: Sequence[PromptEntry], todo: Sequence[int], n: int) -> None:
        self._entries = entries
        self._todo = todo
        self._n = n
        self._results: dict[int, list[Result]] = defaultdict(list)
        self._file = LineFile(path, "--out")

    def take(self, event: Event) -> None:
        if event.result is None:
            return
        results = self._results[event.prompt_index]
        results.append(event.result)
        if len(results) == self._n and all(each.finish_reason in ("stop", "length") for each in results):
            self._append(self._todo[event.prompt_index], self._results.pop(event.prompt_index))

    def close(self) -> None:
        self._file.close()

    def _append(self, index: int, results: Sequence[Result]) -> None:
        numbered = [replace(result, prompt_index=index) for result in results]
        self._file.append(record(numbered, self._entries[index].extra))

"""A file of results, a line a prompt, that a later run of the same command goes on with."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import CospecError
from ..results import Event, Result
from .jsonline import to_line
from .prompts import PromptEntry
from .records import record


def finished_prompts(path: Path, num_prompts: int) -> set[int]:
    """Indices of the prompts that the file has results for. Raises CospecError for a file that is none of ours."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return set()
    except (OSError, UnicodeDecodeError) as error:
        raise CospecError(f"the results in {str(path)!r} cannot be read: {error}") from None
    return {_index(line, f"{path}:{number}", num_prompts) for number, line in enumerate(lines, start=1)}


def _index(line: str, where: str, num_prompts: int) -> int:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    index = value.get("index") if isinstance(value, dict) else None
    if not isinstance(index, int) or not 0 <= index < num_prompts:
        raise CospecError(
            f"{where} is no result of these {num_prompts} prompts; give --out another file, or remove the line"
        )
    return index


class ResultFile:
    """Appends an object a prompt once all its texts are finished; a prompt that failed or was aborted is left out.

    entries: all prompts. todo: the indices of those that are decoded now.
    """

    def __init__(self, path: Path, entries: Sequence[PromptEntry], todo: Sequence[int], n: int) -> None:
        self._entries = entries
        self._todo = todo
        self._n = n
        self._results: dict[int, list[Result]] = defaultdict(list)
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise CospecError(f"--out {str(path)!r} cannot be written: {error.strerror or error}") from None

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
        self._file.write(to_line(record(numbered, self._entries[index].extra)))
        self._file.flush()

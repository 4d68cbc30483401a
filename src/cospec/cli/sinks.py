"""Where decoded text goes: a text as it comes, several one after the other, or JSON."""

import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from rich.segment import Segment
from rich.style import Style

from ..core.events import Event, Result
from .jsonline import to_line
from .prompts import PromptEntry
from .records import record
from .screen import Screen, segment


class Sink(Protocol):
    """Takes every event in the order in which it comes, and is closed behind the last, Ctrl-C or not."""

    def take(self, event: Event) -> None: ...

    def close(self) -> None: ...


class OneText:
    """A single text, token by token."""

    def __init__(self, screen: Screen, names: Sequence[str]) -> None:
        self._screen = screen
        self._names = names
        self._num_written = 0

    def take(self, event: Event) -> None:
        self._write([segment(token) for token in event.tokens])
        if event.result is not None:
            # What was held back, as the start of a stop string perhaps, when the text broke off.
            self._write([Segment(event.result.text[self._num_written :])])

    def close(self) -> None:
        if self._screen.is_terminal:
            self._screen.write([Segment("\n")])
        self._screen.legend(self._names)

    def _write(self, segments: list[Segment]) -> None:
        self._screen.write(segments)
        self._num_written += sum(len(each.text) for each in segments)


class TextByText:
    """Several texts, each under its header once it is finished and those before it are shown."""

    def __init__(self, screen: Screen, names: Sequence[str], num_prompts: int, n: int) -> None:
        self._screen = screen
        self._names = names
        self._num_prompts = num_prompts
        self._n = n
        self._segments: dict[int, list[Segment]] = defaultdict(list)
        self._finished: dict[int, Result] = {}
        self._next = 0

    def take(self, event: Event) -> None:
        number = event.prompt_index * self._n + event.index
        self._segments[number] += [segment(token) for token in event.tokens]
        if event.result is not None:
            self._finished[number] = event.result
        while self._next in self._finished:
            self._show(self._finished.pop(self._next), self._segments.pop(self._next, []))
            self._next += 1

    def close(self) -> None:
        self._screen.legend(self._names)

    def _show(self, result: Result, segments: list[Segment]) -> None:
        rest = result.text[sum(len(each.text) for each in segments) :]
        # In one piece, so that a progress bar below it stays whole.
        self._screen.write([self._header(result), *segments, Segment(f"{rest}\n")])

    def _header(self, result: Result) -> Segment:
        prompt = f"prompt {result.prompt_index + 1}" if self._num_prompts > 1 else ""
        sample = f"sample {result.index + 1}" if self._n > 1 else ""
        return Segment(f"== {', '.join(filter(None, (prompt, sample))) or 'prompt 1'} ==\n", Style(bold=True))


class JsonLines:
    """An object a prompt on standard output, in the order of the prompts."""

    def __init__(self, entries: Sequence[PromptEntry], n: int) -> None:
        self._entries = entries
        self._n = n
        self._results: dict[int, list[Result]] = defaultdict(list)
        self._next = 0

    def take(self, event: Event) -> None:
        if event.result is None:
            return
        self._results[event.prompt_index].append(event.result)
        while len(self._results.get(self._next, ())) == self._n:
            self._write(self._next)
            self._next += 1

    def close(self) -> None:
        """What Ctrl-C left incomplete is written too."""
        for prompt_index in sorted(self._results):
            self._write(prompt_index)

    def _write(self, prompt_index: int) -> None:
        results = self._results.pop(prompt_index)
        sys.stdout.write(to_line(record(results, self._entries[prompt_index].extra)))
        sys.stdout.flush()

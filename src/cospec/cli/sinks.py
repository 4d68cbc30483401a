"""Where decoded sequences go: to the screen, one as it comes or several one after the other, or to JSON."""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style
from rich.text import Text

from ..core.events import Event, Result
from ..core.tokens import Token
from ..resume import SETTINGS, KeptRows, RowFile, Settings
from .output import print_json
from .prompts import PromptEntry
from .records import Records
from .tables import print_tables

# The colours of the lanes: the members, then the drafters, in the order of the ensemble.
PALETTE = ("cyan", "magenta", "green", "yellow", "blue", "red")


class Sink(Protocol):
    """Takes every event in the order in which it comes, and is closed after the last, Ctrl-C or not."""

    def take(self, event: Event) -> None: ...

    def close(self) -> None: ...


class Screen:
    """Standard output: tokens in their proposer's colour on a terminal that has colours, and elsewhere the bare text.

    names: of the ensemble's members and drafters. records: how log-probabilities are written.
    """

    def __init__(self, names: Sequence[str], records: Records, *, is_plain: bool) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self._names, self.records = names, records
        has_colours = self.console.color_system is not None and not self.console.no_color
        self._is_coloured = self.console.is_terminal and has_colours and not is_plain

    def write(self, segments: Sequence[Segment]) -> None:
        """The segments' text as it is: no wrapping, no markup, tabs and control characters untouched."""
        if self._is_coloured:
            self.console.print(Segments(segments), end="")
        else:
            sys.stdout.write("".join(segment.text for segment in segments))
        sys.stdout.flush()

    def segment(self, token: Token) -> Segment:
        """The token's text in its style; its id where there is no tokenizer."""
        text = token.text if self.records.speller.has_tokenizer else self.records.speller.spell(token.token)
        return Segment(text, _style(token.proposer, is_replacement=token.replaced is not None))

    def write_logprobs(self, result: Result) -> None:
        """The table of log-probabilities, where they were asked for."""
        if result.logprobs is not None:
            print_tables(self.records.table(result))

    def legend(self) -> None:
        """One line on what the colours mean."""
        if self._is_coloured:
            line = Text("proposed by ")
            for lane, name in enumerate(self._names):
                line.append(name, _style(lane)).append(", ")
            line.append("nobody (drawn from r); ")
            line.append("in place of a rejected draft", _style(None, is_replacement=True))
            self.console.print(line)


def _style(lane: int | None, *, is_replacement: bool = False) -> Style:
    colour = None if lane is None else PALETTE[lane % len(PALETTE)]
    return Style(color=colour, underline=is_replacement or None)


class OneText:
    """A single sequence, token by token. has_legend: whether the colours are explained below it."""

    def __init__(self, screen: Screen, *, has_legend: bool = True) -> None:
        self._screen, self._has_legend = screen, has_legend
        self._num_written = 0
        self._result: Result | None = None

    def take(self, event: Event) -> None:
        self._write([self._screen.segment(token) for token in event.tokens])
        if event.result is not None:
            # Text that was held back when the sequence ended, such as the start of a stop string.
            self._write([Segment(event.result.text[self._num_written :])])
            self._result = event.result

    def close(self) -> None:
        # One newline ends the text, whatever it ends with: without it, what a pipe gets is the text, byte for byte.
        self._screen.write([Segment("\n")])
        if self._has_legend:
            self._screen.legend()
        if self._result is not None:
            self._screen.write_logprobs(self._result)

    def _write(self, segments: list[Segment]) -> None:
        self._screen.write(segments)
        self._num_written += sum(len(each.text) for each in segments)


class TextByText:
    """Several sequences, each under its header once it is finished and those before it are shown."""

    def __init__(self, screen: Screen, num_prompts: int, n: int) -> None:
        self._screen = screen
        self._num_prompts = num_prompts
        self._n = n
        self._segments: dict[int, list[Segment]] = defaultdict(list)
        self._finished: dict[int, Result] = {}
        self._next = 0

    def take(self, event: Event) -> None:
        number = event.prompt_index * self._n + event.index
        self._segments[number] += [self._screen.segment(token) for token in event.tokens]
        if event.result is not None:
            self._finished[number] = event.result
        while self._next in self._finished:
            self._show(self._finished.pop(self._next), self._segments.pop(self._next, []))
            self._next += 1

    def close(self) -> None:
        self._screen.legend()

    def _show(self, result: Result, segments: list[Segment]) -> None:
        prompt = f"prompt {result.prompt_index + 1}" if self._num_prompts > 1 else ""
        sample = f"sample {result.index + 1}" if self._n > 1 else ""
        header = f"== {', '.join(filter(None, (prompt, sample))) or 'prompt 1'} ==\n"
        rest = result.text[sum(len(each.text) for each in segments) :]
        # Written at once, so that a progress bar below it stays whole.
        self._screen.write([Segment(header, Style(bold=True)), *segments, Segment(f"{rest}\n")])
        self._screen.write_logprobs(result)


class JsonLines:
    """An object for each prompt on standard output, in the order of the prompts."""

    def __init__(self, records: Records, entries: Sequence[PromptEntry], n: int) -> None:
        self._records = records
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
        """Write what Ctrl-C left incomplete, too."""
        for prompt_index in sorted(self._results):
            self._write(prompt_index)

    def _write(self, prompt_index: int) -> None:
        print_json(self._records.record(self._results.pop(prompt_index), self._entries[prompt_index]))


class ResultFile:
    """Appends an object for each prompt once its n samples are finished; none for one that failed or was aborted.

    todo: the prompts that are decoded now, by their index among all of the file's. settings: by the same index, what
    is written beside each result for a later run. kept: what the file has.
    """

    def __init__(
        self,
        path: Path,
        kept: KeptRows,
        records: Records,
        todo: Mapping[int, PromptEntry],
        settings: Mapping[int, Settings],
        n: int,
    ) -> None:
        self._todo = list(todo.items())
        self._records, self._settings = records, settings
        self._n = n
        self._results: dict[int, list[Result]] = defaultdict(list)
        self._file = RowFile(path, kept)

    def take(self, event: Event) -> None:
        if event.result is None:
            return
        index, entry = self._todo[event.prompt_index]
        results = self._results[index]
        results.append(replace(event.result, prompt_index=index))
        if len(results) == self._n and all(each.finish_reason in ("stop", "length") for each in results):
            row = self._records.record(self._results.pop(index), entry)
            self._file.append({**row, SETTINGS: self._settings[index]})

    def close(self) -> None:
        self._file.close()

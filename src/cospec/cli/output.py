"""What commands print beside a text: JSON, notes and errors, a progress bar; and Ctrl-C, which ends a run in order."""

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Protocol, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from ..interrupts import INTERRUPTED
from ..storage import to_json


def to_line(value: Mapping[str, object]) -> str:
    """One line of JSON, in ASCII so that every terminal and pipe takes it."""
    return to_json(value) + "\n"


def print_json(value: Mapping[str, object]) -> None:
    """One line of JSON on standard output, at once."""
    sys.stdout.write(to_line(value))
    sys.stdout.flush()


def print_error(message: str) -> None:
    """`error: message` on standard error, red on a terminal."""
    _stderr().print(Text.assemble(("error: ", "bold red"), message))


def print_note(message: str) -> None:
    """A line on standard error."""
    _stderr().print(Text(message))


def _stderr() -> Console:
    """A console on standard error as it is now, a terminal or not."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_figures(value: Mapping[str, object], *, as_json: bool) -> None:
    """All figures as one line of JSON: where it is asked for, and below the tables where a program reads them."""
    if as_json or not sys.stdout.isatty():
        print_json(value)


def interrupted(sentence: str) -> typer.Exit:
    """What ends a command after Ctrl-C. sentence: what is kept, and how to go on."""
    print_note(f"interrupted; {sentence}")
    return typer.Exit(INTERRUPTED)


@contextmanager
def on_interrupt(sentence: Callable[[], str]) -> Iterator[None]:
    """Ends the command with that sentence if Ctrl-C comes in between."""
    try:
        yield
    except KeyboardInterrupt:
        raise interrupted(sentence()) from None


class Advance(Protocol):
    """Moves a progress bar. done: by how much of its total. doing: the name of the work, shown before the bar."""

    def __call__(self, done: float = 1, doing: str = "") -> None: ...


@contextmanager
def progress(total: float, stdout: Console | None = None, *, is_wanted: bool = True) -> Iterator[Advance]:
    """A progress bar on standard error, where that is a terminal. Yields the function that moves it.

    stdout: the console that text is printed through meanwhile.
    """
    stderr, stdout = _stderr(), stdout or Console()
    # Where both are terminals they are one, and only through one console do text and bar keep apart.
    is_shared = stdout.is_terminal
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stdout if is_shared else stderr,
        redirect_stdout=is_shared,
        transient=True,
        disable=not (is_wanted and stderr.is_terminal),
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda done=1, doing="": bar.update(task, advance=done, description=doing)


class Interrupt:
    """Notes the first Ctrl-C, for the loop that decodes to ask about; a second one ends the program as ever."""

    def __init__(self) -> None:
        self._is_noted = False

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def is_noted(self) -> bool:
        return self._is_noted

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._is_noted = True
        signal.signal(signal.SIGINT, self._previous)

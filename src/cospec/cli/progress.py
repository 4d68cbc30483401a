"""A progress bar, where standard error is a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .messages import stderr


class Advance(Protocol):
    """done: how much of the total was. doing: what it belongs to, which then stands before the bar."""

    def __call__(self, done: float = 1, doing: str = "") -> None: ...


@contextmanager
def progress(total: float, stdout: Console, *, is_wanted: bool) -> Iterator[Advance]:
    """What to call for each text that is finished, or with so much of the total as is."""
    console = stderr()
    is_shown = is_wanted and console.is_terminal
    # Where both are terminals they are one, and only through one console do text and bar keep apart.
    shared = stdout.is_terminal
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stdout if shared else console,
        redirect_stdout=shared,
        transient=True,
        disable=not is_shown,
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda done=1, doing="": bar.update(task, advance=done, description=doing)

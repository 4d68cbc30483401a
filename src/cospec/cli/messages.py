"""Notes and errors: lines on standard error."""

from rich.console import Console
from rich.text import Text


def print_error(message: str) -> None:
    """`error: message`, red on a terminal."""
    stderr().print(Text.assemble(("error: ", "bold red"), message))


def print_note(message: str) -> None:
    stderr().print(Text(message))


def stderr() -> Console:
    """As standard error is now, a terminal or not."""
    return Console(stderr=True, highlight=False, soft_wrap=True)

"""What is typed in a conversation, message by message: of one line or several, on a terminal or through a pipe."""

import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from ..errors import InvalidPrompt
from ..inputs import decoded

# What stands in front of a message's first line on a terminal, and of those that go on with it.
FIRST, MORE = "> ", "... "
# What a block of lines stands between, and what ends a line that the next one goes on with.
FENCE, CONTINUED = '"""', "\\"


class Lines(Protocol):
    """Lines as they are typed."""

    is_terminal: bool

    def read(self, prompt: str) -> str:
        """The next line, without its newline. prompt: stands in front of it on a terminal.

        Raises EOFError behind the last one, KeyboardInterrupt for Ctrl-C, InvalidPrompt for what is no text.
        """
        ...


class TerminalLines:
    """Lines of a terminal, which are edited and called back with the arrow keys where Python has readline."""

    is_terminal = True

    def __init__(self) -> None:
        with suppress(ImportError):
            import readline

            # Lines that are pasted together are one message.
            readline.parse_and_bind("set enable-bracketed-paste on")

    def read(self, prompt: str) -> str:
        try:
            if sys.stdout.isatty():
                return input(prompt)
            # `input` would write it to standard output, which is for answers.
            print(prompt, end="", file=sys.stderr, flush=True)
            return input()
        except UnicodeDecodeError as error:
            raise InvalidPrompt(f"what was typed is not {error.encoding.upper()} ({error.reason})") from None


class PipeLines:
    """Lines of a file or of another program, and no word but the answers on standard output."""

    is_terminal = False

    def read(self, prompt: str) -> str:
        line = sys.stdin.buffer.readline()
        if not line:
            raise EOFError
        return decoded(line, "standard input", InvalidPrompt).removesuffix("\n").removesuffix("\r")


@dataclass(frozen=True, kw_only=True)
class Typed:
    """A message, or a command such as `/stats`. is_quoted: typed between fences, where nothing is a command."""

    text: str
    is_quoted: bool = False

    @property
    def command(self) -> tuple[str, str] | None:
        """The command and what stands behind it; None for a message."""
        if self.is_quoted or not self.text.startswith("/"):
            return None
        name, _, rest = self.text.partition(" ")
        return name.rstrip(), rest.strip()


def read_typed(lines: Lines) -> Typed:
    """The next message or command. Ctrl-C behind the first of several lines takes them back. Raises as `Lines.read`."""
    line = lines.read(FIRST)
    try:
        if line.startswith(FENCE):
            return Typed(text=_fenced(line.removeprefix(FENCE), lines), is_quoted=True)
        while line.endswith(CONTINUED):
            line = line.removesuffix(CONTINUED) + "\n" + (_next(lines) or "")
    except KeyboardInterrupt:
        return Typed(text="")
    return Typed(text=line)


def _fenced(line: str, lines: Lines) -> str:
    """What stands before the fence that ends a line. A first line that is empty is none of it."""
    block = [] if not line else [line]
    last: str | None = line
    while last is not None and not last.endswith(FENCE):
        last = _next(lines)
        block += [] if last is None else [last]
    return "\n".join(block).removesuffix(FENCE).removesuffix("\n")


def _next(lines: Lines) -> str | None:
    """The next line of a message; None behind the last one, which ends the message as well."""
    try:
        return lines.read(MORE)
    except EOFError:
        return None

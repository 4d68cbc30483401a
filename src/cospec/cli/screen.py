"""Standard output: the text, coloured by proposer on a terminal, and a legend."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style
from rich.text import Text

from ..core.tokens import Token

# A lane's colour: the members', then the drafters', in the order of the ensemble.
PALETTE = ("cyan", "magenta", "green", "yellow", "blue", "red")


class Screen:
    """Tokens in their proposer's colour on a terminal, and elsewhere the bare text, to the letter."""

    def __init__(self, *, is_plain: bool) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.is_terminal = self.console.is_terminal
        self.is_coloured = self.is_terminal and not is_plain

    def write(self, segments: Sequence[Segment]) -> None:
        """The segments' text as it is: no wrapping, no markup, tabs and control characters untouched."""
        if self.is_coloured:
            self.console.print(Segments(segments), end="")
        else:
            sys.stdout.write("".join(segment.text for segment in segments))
        sys.stdout.flush()

    def legend(self, names: Sequence[str]) -> None:
        """One line on what the colours mean."""
        if self.is_coloured:
            line = Text("proposed by ")
            for lane, name in enumerate(names):
                line.append(name, _style(lane)).append(", ")
            line.append("nobody (drawn from r); ")
            line.append("in place of a rejected draft", _style(None, is_replacement=True))
            self.console.print(line)


def segment(token: Token) -> Segment:
    """The token's text, in its style."""
    return Segment(token.text, _style(token.proposer, is_replacement=token.replaced is not None))


def _style(lane: int | None, *, is_replacement: bool = False) -> Style:
    colour = None if lane is None else PALETTE[lane % len(PALETTE)]
    return Style(color=colour, underline=is_replacement or None)

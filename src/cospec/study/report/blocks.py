"""What the report is made of, before it is HTML or Markdown. All text is plain text: the writers escape it."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Tone = Literal["", "good", "bad", "unknown", "soft", "strong"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """below: a sentence in small print. hook: by which the page's script finds it."""

    text: str
    below: str = ""
    tone: Tone = ""
    hook: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    title: str
    is_number: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Note:
    """A sentence of plain language. hook: see Cell."""

    text: str
    tone: Tone = ""
    hook: str = ""


@dataclass(frozen=True, kw_only=True)
class Formula:
    """lines: how the figures above it come about."""

    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """svg: as made by `plots`, on the page alone: its figures stand in tables too. legend: label -> its colour."""

    title: str
    svg: str
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A headline figure. says: it in plain words. hook, says_hook: see Cell."""

    label: str
    figure: str
    says: str
    tone: Tone = ""
    hook: str = ""
    says_hook: str = ""


@dataclass(frozen=True, kw_only=True)
class Tiles:
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, kw_only=True)
class Field:
    """A price that the reader may change. name: what the script calls it. count: machines that it is for."""

    label: str
    name: str
    value: float | None
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Prices:
    fields: tuple[Field, ...]


@dataclass(frozen=True, kw_only=True)
class Download:
    """A link to the raw data within the page."""

    label: str


@dataclass(frozen=True, kw_only=True)
class Banner:
    """The verdict. tone: good, bad, or unknown for a verdict with a condition."""

    decision: str
    says: str
    tone: Tone


Block: TypeAlias = Banner | Tiles | Table | Note | Formula | Plot | Prices | Download


@dataclass(frozen=True, kw_only=True)
class Section:
    """anchor: its address within the page."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]


def texts(*cells: str) -> tuple[Cell, ...]:
    """A row of plain cells."""
    return tuple(Cell(text=text) for text in cells)


def columns(titles: str, *, num_words: int = 1) -> tuple[Column, ...]:
    """Titles between bars; those behind the first `num_words` hold numbers."""
    return tuple(Column(title=title.strip(), is_number=i >= num_words) for i, title in enumerate(titles.split("|")))

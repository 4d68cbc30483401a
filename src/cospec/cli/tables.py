"""Tables on a terminal of any width: words stay whole, and a column that has no room is left out and named."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from .help import wrapped

Cell = str | Text

# Spaces between two columns.
_GAP = 2
# Lines that a wrapped cell may take before its column is left out instead.
_MOST_LINES = 4
# The width of a table that goes to a file or a pipe, where lines need not fit a window.
_UNLIMITED = 10_000


@dataclass(frozen=True, kw_only=True)
class TableColumn:
    """A column of a table.

    priority: columns get room in this order, the lowest number first; of equal ones, the leftmost first. The first
    column of a table and those of priority 0 are never left out. is_number: aligned to the right. wraps: cells may
    break between words; headers always may.
    """

    name: str
    priority: int = 1
    is_number: bool = False
    wraps: bool = False


def print_tables(*tables: "FittedTable") -> None:
    """Print to standard output: as wide as its terminal, as COLUMNS says, or in a pipe as wide as the rows are."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNLIMITED
    for number, table in enumerate(tables):
        if number:
            console.print()
        # A word that is wider than the terminal is left to it, whole.
        console.print(table, crop=False)


@dataclass(frozen=True, kw_only=True)
class FittedTable:
    """A table that chooses its columns, and their widths, by the width that it is rendered in.

    rows: a cell for each column, plain text or styled `Text`; neither is read as markup. caption: stands below.
    Columns without room are named in a line below the table, with the hint where to find them. Where even the columns
    that are never left out have no room, each row is shown as a block, a line for each column.
    """

    title: str = ""
    columns: Sequence[TableColumn]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    hint: str = "use --json"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if self.title:
            yield Text(self.title, "bold")
        shown = self._that_fit(options.max_width)
        if shown:
            yield self._grid(shown, options.max_width)
            left_out = [column.name for index, column in enumerate(self.columns) if index not in shown]
            if left_out:
                yield Text(f"Not shown at this width: {', '.join(left_out)}; {self.hint}", "dim")
        else:
            yield from self._blocks(options.max_width)
        if self.caption:
            yield Text(self.caption)

    def _that_fit(self, width: int) -> list[int]:
        """Indices of the columns to show, in order; none where those that are never left out have no room."""
        ranked = sorted(range(len(self.columns)), key=lambda index: (index > 0, self.columns[index].priority, index))
        shown: list[int] = []
        room = width + _GAP
        for index in ranked:
            needed = self._least_width(index) + _GAP
            if needed <= room:
                shown.append(index)
                room -= needed
            elif index == 0 or self.columns[index].priority == 0:
                return []
        return sorted(shown)

    def _grid(self, shown: Sequence[int], width: int) -> Table:
        grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        widths = self._widths(shown, width)
        for index, column_width in zip(shown, widths, strict=True):
            column = self.columns[index]
            grid.add_column(Text(column.name), justify="right" if column.is_number else "left", width=column_width)
        for row in self.rows:
            cells = zip(shown, widths, strict=True)
            grid.add_row(*(_fitted(row[index], self.columns[index], width) for index, width in cells))
        return grid

    def _widths(self, shown: Sequence[int], width: int) -> list[int]:
        """The width of each column: at least what it needs; the room that is left is shared evenly."""
        widths = [self._least_width(index) for index in shown]
        wanted = [self._natural_width(index) for index in shown]
        room = width - sum(widths) - _GAP * (len(shown) - 1)
        while room > 0 and widths != wanted:
            for place, most in enumerate(wanted):
                if widths[place] < most and room > 0:
                    widths[place] += 1
                    room -= 1
        return widths

    def _blocks(self, width: int) -> Iterator[Table | Text]:
        label_width = max(cell_len(column.name) for column in self.columns) + _GAP
        longest_word = _longest([word for row in self.rows for cell in row for word in _plain(cell).split()])
        for number, row in enumerate(self.rows):
            if number:
                yield Text()
            block = Table.grid()
            block.width = max(width, label_width + longest_word)
            block.add_column(width=label_width)
            block.add_column(width=block.width - label_width)
            for column, cell in zip(self.columns, row, strict=True):
                block.add_row(Text(column.name, "bold"), _text(cell))
            yield block

    def _natural_width(self, index: int) -> int:
        """Cells that a column fills where nothing of it is wrapped."""
        lines = [line for row in self.rows for line in _plain(row[index]).splitlines()]
        return _longest([self.columns[index].name, *lines])

    def _least_width(self, index: int) -> int:
        """Cells that a column cannot do without: no word breaks, and wrapped cells stay readable."""
        column = self.columns[index]
        header = _longest(column.name.split())
        if not column.wraps:
            return max(header, _longest([line for row in self.rows for line in _plain(row[index]).splitlines()]))
        words = _longest([word for row in self.rows for word in _plain(row[index]).split()])
        return max(header, words, -(-self._natural_width(index) // _MOST_LINES))


def _longest(texts: Sequence[str]) -> int:
    """The width of the widest of the texts in terminal cells, 0 where there are none."""
    return max(map(cell_len, texts), default=0)


def _plain(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.plain


def _fitted(cell: Cell, column: TableColumn, width: int) -> Text:
    """The cell in a column of this width; a sentence leaves no last word on a line of its own."""
    if not column.wraps or not isinstance(cell, str):
        return _text(cell)
    return Text("\n".join(line for part in cell.splitlines() for line in wrapped(part, width)))


def _text(cell: Cell) -> Text:
    return Text(cell) if isinstance(cell, str) else cell

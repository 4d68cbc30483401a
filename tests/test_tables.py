"""Tables fit their terminal, whatever its width."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from cospec.cli.tables import FittedTable, TableColumn, print_tables

COLUMNS = [
    TableColumn(name="method"),
    TableColumn(name="tokens/s", is_number=True, priority=0),
    TableColumn(name="what was compared", wraps=True),
    TableColumn(name="calls / 100 tokens", wraps=True, priority=2),
    TableColumn(name="peak MiB", is_number=True, priority=3),
]
ROWS = [
    [
        "alternate[4]",
        "82.3",
        "every prompt, token by token, with the naive loop",
        "math-405m 51, general-405m 50",
        "312",
    ],
    ["ハイブリッド", Text("7.9", "red"), "samples\nof 20 prompts", "math-405m 100", "297"],
]
TABLE = FittedTable(title="speed over plain", columns=COLUMNS, rows=ROWS, caption="on two cores")
WIDTHS = range(22, 140, 2)


def lines(table, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(table, crop=False)
    return console.file.getvalue().splitlines()


def shown(width):
    """Names of the columns in the table."""
    text = "\n".join(lines(TABLE, width)).split("Not shown")[0]
    return {column.name for column in COLUMNS if all(word in text for word in column.name.split())}


def told(width):
    """Names of the columns in the line below the table."""
    text = " ".join(" ".join(lines(TABLE, width)).split())
    return set(text.split("at this width: ")[1].split("; use")[0].split(", ")) if "at this width: " in text else set()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_word_breaks_no_line_is_too_wide_and_columns_left_out_are_named(width):
    table = lines(TABLE, width)
    words = {word for line in table for word in line.split()}
    for index, column in enumerate(COLUMNS):
        assert (column.name in shown(width)) != (column.name in told(width))
        if column.name in shown(width):
            assert {word for row in ROWS for word in str(row[index]).split()} <= words
    assert max(Text(line).cell_len for line in table) <= width


def test_the_first_column_to_go_is_that_of_the_highest_priority():
    widest = next(width for width in reversed(WIDTHS) if told(width))
    assert told(widest) == {"peak MiB"}
    assert shown(WIDTHS[0]) == {"method", "tokens/s"}


def test_a_row_becomes_a_block_where_not_even_the_first_columns_fit():
    table = lines(TABLE, 19)
    assert "Not shown" not in "".join(table)
    assert [line.split() for line in table].count(["method", "alternate[4]"]) == 1
    assert sum(line.startswith("peak MiB") for line in table) == len(ROWS)


def test_a_table_without_rows_has_its_header():
    assert lines(FittedTable(columns=COLUMNS[:2], rows=[]), 80)[0].split() == ["method", "tokens/s"]


def test_a_pipe_gets_every_column(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    print_tables(TABLE)
    assert "math-405m 51, general-405m 50" in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "40")
    print_tables(TABLE)
    assert "Not shown at this width: " in capsys.readouterr().out

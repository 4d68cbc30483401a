"""The report as Markdown, to paste where people decide. Plots are left out: their figures stand in the tables."""

import re
from collections.abc import Sequence as Values
from functools import singledispatch

from .blocks import Banner, Block, Cell, Download, Formula, Note, Plot, Prices, Section, Table, Tiles
from .numbers import amount
from .view import View

# An underscore within a word is none of Markdown's.
_SPECIAL = re.compile(r"[\\`*\[\]<>|~$]|(?<!\w)_|_(?!\w)")


def to_markdown(view: View, sections: Values[Section]) -> str:
    """Names and prompts are escaped, so that none of them is markup."""
    found, say = view.study, view.say
    title = say("page.title", {"ensemble": found.settings.ensemble})
    date = found.environment.started[:10] or "–"
    values = {"num": len(found.settings.prompts), "date": date, "processor": found.environment.processor}
    parts = [f"# {plain(title)}", plain(f"{say('page.meta', values)} · r = {found.settings.target}")]
    for section in sections:
        parts += [f"## {plain(section.title)}", *(part for block in section.blocks if (part := _block(block, view)))]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """On one line, with nothing that Markdown or HTML would take for its own."""
    return _SPECIAL.sub(r"\\\g<0>", " ".join(text.split()).replace("&", "&amp;"))


@singledispatch
def _block(block: Block, view: View) -> str:
    raise AssertionError(f"no block of the report: {block!r}")


@_block.register
def _(block: Banner, view: View) -> str:
    return f"**{plain(block.decision)}** {plain(block.says)}"


@_block.register
def _(block: Tiles, view: View) -> str:
    return "\n".join(f"- {plain(t.label)}: **{plain(t.figure)}** {plain(t.says)}" for t in block.tiles)


@_block.register
def _(block: Note, view: View) -> str:
    return plain(block.text)


@_block.register
def _(block: Table, view: View) -> str:
    head = " | ".join(plain(column.title) for column in block.columns)
    rule = " | ".join("---:" if column.is_number else "---" for column in block.columns)
    rows = [f"| {' | '.join(map(_cell, row))} |" for row in block.rows]
    return "\n".join([f"**{plain(block.title)}**", "", f"| {head} |", f"| {rule} |", *rows])


def _cell(cell: Cell) -> str:
    text = plain(cell.text)
    text = f"**{text}**" if cell.tone in ("strong", "bad") and text.strip("–") else text
    return f"{text}<br>{plain(cell.below)}" if cell.below else text


@_block.register
def _(block: Formula, view: View) -> str:
    lines = "\n".join(f"- {plain(line)}" for line in block.lines)
    return f"<details><summary>{plain(view.say('page.formula'))}</summary>\n\n{lines}\n\n</details>"


@_block.register
def _(block: Prices, view: View) -> str:
    def written(value: float | None) -> str:
        return "–" if value is None else amount(value)

    lines = [f"- {plain(each.label)}: {written(each.value)}" for each in block.fields]
    return "\n".join([*lines, f"- {plain(view.currency)}"])


@_block.register
def _(block: Plot, view: View) -> str:
    return ""


@_block.register
def _(block: Download, view: View) -> str:
    return ""

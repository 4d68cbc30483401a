"""The report as one page that needs no other file and asks nothing of any network."""

import base64
import hashlib
from collections.abc import Sequence as Values
from functools import singledispatch
from html import escape
from pathlib import Path

from ...storage import to_json
from .blocks import Banner, Block, Cell, Download, Field, Formula, Note, Plot, Prices, Section, Table, Tile, Tiles
from .svg import MARKERS
from .view import View

_HERE = Path(__file__).parent
# What the page's script says when a price changes.
_SCRIPT_TEXTS = (
    *("cost.saving", "cost.loss", "cost.no saving yet", "cost.less", "cost.more"),
    *("tile.cost says", "page.edited"),
)


def to_html(view: View, sections: Values[Section]) -> str:
    """Everything in it is escaped; its policy lets no script run but its own, and no request be made."""
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    title = escape(view.say("page.title", {"ensemble": view.study.settings.ensemble}))
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="{view.say.language}">',
            '<head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title} · cospec</title>",
            f"<style>\n{(_HERE / 'page.css').read_text(encoding='utf-8')}</style></head>",
            "<body>",
            _header(view, title, sections),
            "<main>",
            *(_section(section, view) for section in sections),
            "</main>",
            f"<footer>{escape(_foot(view))}</footer>",
            _data("results", view.study.to_dict()),
            _data("texts", _script_texts(view)),
            f"<script>{script}</script>",
            "</body></html>\n",
        ]
    )


def _script_texts(view: View) -> dict[str, str]:
    unmetered = view.missing("machine does not tell")
    return {
        **{key: view.say.table[key] for key in _SCRIPT_TEXTS},
        "planned": view.at_once(view.planned),
        "unmetered": unmetered,
        "unmetered saving": view.say("cost.no saving", {"reason": unmetered}),
    }


def _data(name: str, value: object) -> str:
    """As JSON in which no tag can be closed."""
    text = to_json(value).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _header(view: View, title: str, sections: Values[Section]) -> str:
    found, say = view.study, view.say
    date = found.environment.started[:10] or "–"
    values = {"num": len(found.settings.prompts), "date": date, "processor": found.environment.processor}
    links = "".join(f'<a href="#{section.anchor}">{escape(section.title)}</a>' for section in sections[1:])
    return (
        f'<header class="top"><p class="brand">{_LOGO}<b>cospec</b><span>{escape(say("page.kind"))}</span></p>'
        f'<h1>{title}</h1><p class="soft">{escape(say("page.meta", values))}</p>'
        f'<p class="target">r = {escape(found.settings.target)}</p>'
        f'<nav aria-label="{escape(say("page.contents"))}">{links}</nav></header>'
    )


_LOGO = (
    '<svg viewBox="0 0 28 20" width="28" height="20" aria-hidden="true"><circle cx="10" cy="10" r="8" class="f-c0"/>'
    '<circle cx="18" cy="10" r="8" class="f-c1" fill-opacity=".82"/></svg>'
)


def _foot(view: View) -> str:
    return view.say("page.foot", {"version": view.study.environment.versions.get("cospec", "")})


def _section(section: Section, view: View) -> str:
    inside = "\n".join(_block(block, view) for block in section.blocks)
    return f'<section id="{section.anchor}"><h2>{escape(section.title)}</h2>\n{inside}\n</section>'


@singledispatch
def _block(block: Block, view: View) -> str:
    raise AssertionError(f"no block of the report: {block!r}")


@_block.register
def _(block: Banner, view: View) -> str:
    decision, says = escape(block.decision), escape(block.says)
    return f'<div class="banner {block.tone}"><p class="decision">{decision}</p><p>{says}</p></div>'


@_block.register
def _(block: Tiles, view: View) -> str:
    return f'<div class="tiles">{"".join(map(_tile, block.tiles))}</div>'


def _tile(tile: Tile) -> str:
    return (
        f'<div class="tile {tile.tone}"><p class="label">{escape(tile.label)}</p>'
        f'<p class="number"{_hook(tile.hook)}>{escape(tile.figure)}</p>'
        f'<p class="soft"{_hook(tile.says_hook)}>{escape(tile.says)}</p></div>'
    )


def _hook(name: str) -> str:
    return f' data-hook="{escape(name)}"' if name else ""


@_block.register
def _(block: Note, view: View) -> str:
    return f'<p class="note {block.tone}"{_hook(block.hook)}>{escape(block.text)}</p>'


@_block.register
def _(block: Formula, view: View) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in block.lines)
    return f"<details><summary>{escape(view.say('page.formula'))}</summary><ul>{lines}</ul></details>"


@_block.register
def _(block: Plot, view: View) -> str:
    keys = "".join(
        '<li><svg width="14" height="14" viewBox="-7 -7 14 14" aria-hidden="true">'
        f'<path d="{MARKERS[i % len(MARKERS)]}" class="f-{colour}"/></svg>{escape(label)}</li>'
        for i, (label, colour) in enumerate(block.legend)
    )
    legend = f'<ul class="legend">{keys}</ul>' if keys else ""
    return f"<figure><figcaption>{escape(block.title)}</figcaption>{legend}{block.svg}</figure>"


@_block.register
def _(block: Table, view: View) -> str:
    label = escape(view.say("page.scroll", {"title": block.title}))
    head = "".join(
        f'<th scope="col"{_number(column.is_number)}>{escape(column.title)}</th>' for column in block.columns
    )
    numbers = [column.is_number for column in block.columns]
    rows = "".join(f"<tr>{_row(row, numbers)}</tr>" for row in block.rows)
    return (
        f'<h3>{escape(block.title)}</h3><div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _number(is_number: bool) -> str:
    return ' class="n"' if is_number else ""


def _row(row: Values[Cell], numbers: Values[bool]) -> str:
    first, *others = (_cell(cell, is_number) for cell, is_number in zip(row, numbers, strict=True))
    return f'<th scope="row">{first[1]}</th>' + "".join(f"<td{_number(is_n)}>{inside}</td>" for is_n, inside in others)


def _cell(cell: Cell, is_number: bool) -> tuple[bool, str]:
    below = f"<small>{escape(cell.below)}</small>" if cell.below else ""
    return is_number, f'<span class="{cell.tone}"{_hook(cell.hook)}>{escape(cell.text)}</span>{below}'


@_block.register
def _(block: Prices, view: View) -> str:
    fields = "".join(map(_field, block.fields))
    currency = escape(view.currency)
    reset = f'<button type="reset">{escape(view.say("page.reset"))}</button>'
    return (
        f'<form class="prices" id="prices" data-currency="{currency}">{fields}'
        f'<p class="soft"><span>{currency}</span>{reset}</p>'
        '<p class="soft" data-hook="edited" role="status"></p></form>'
    )


def _field(field: Field) -> str:
    value = "" if field.value is None else f"{field.value:.12g}"
    return (
        f'<label>{escape(field.label)}<input type="number" min="0" step="any" inputmode="decimal" autocomplete="off" '
        f'data-price="{field.name}" data-count="{field.count}" value="{value}"></label>'
    )


@_block.register
def _(block: Download, view: View) -> str:
    return f'<p class="note"><a id="download" download="results.json" href="#results">{escape(block.label)}</a></p>'

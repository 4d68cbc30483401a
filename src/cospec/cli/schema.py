"""`cospec schema`: every key of an ensemble file, for editors (JSON schema) and for readers (Markdown)."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
import yaml

from ..interrupts import importing

EXAMPLE = "cospec schema > ensemble.schema.json"

_PLACES = {(True, True): "file, model", (True, False): "file", (False, True): "model"}
_TYPES = {
    "array": "list",
    "boolean": "`true` or `false`",
    "integer": "whole number",
    "number": "number",
    "object": "keys and values",
    "string": "text",
}


def schema(
    *,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print tables of the keys instead.")] = False,
) -> None:
    """Print the JSON schema of ensemble files, for editors.

    An editor that knows YAML completes and checks keys by it, those of installed packages' combinations too: begin the
    file with the line # yaml-language-server: $schema=ensemble.schema.json
    """
    with importing():
        from ..files import ensemble_schema
    found = ensemble_schema()
    sys.stdout.write("\n".join(tables(found)) if as_markdown else json.dumps(found, indent=2))
    sys.stdout.write("\n")


def tables(schema: Mapping[str, Any]) -> Iterator[str]:
    """Markdown: the keys, then the options of each combination."""
    of_file, of_model = schema["properties"], schema["$defs"]["MemberSettings"]["properties"]
    yield from _table(("key", "of", "type", "default", "meaning", "example"), _key_rows(of_file, of_model))
    yield ""
    combinations = [part for part in schema["properties"]["combine"]["anyOf"] if "properties" in part]
    header = ("`type`", "what tokens are drawn from", "options", "example")
    yield from _table(header, (_combination_row(part) for part in combinations))


def _key_rows(of_file: Mapping[str, Any], of_model: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    of_both = [key for key in of_file if key in of_model]
    for key in [*(key for key in (*of_file, *of_model) if key not in of_both), *of_both]:
        value = of_file.get(key) or of_model[key]
        meaning, _, default = value["description"].partition(" Default: ")
        place = _PLACES[key in of_file, key in of_model]
        example = _yaml({key: value["examples"][0]})
        yield f"`{key}`", place, _type(value), default.removesuffix(".") or "must be given", meaning, f"`{example}`"


def _combination_row(part: Mapping[str, Any]) -> Sequence[str]:
    options = {name: value for name, value in part["properties"].items() if name != "type"}
    lines = [f"`{name}`: {_type(value)}{_default(name, value)}" for name, value in options.items()]
    example = _yaml({"combine": part["examples"][0]})
    return f"`{part['properties']['type']['const']}`", part["description"], "; ".join(lines), f"`{example}`"


def _default(name: str, value: Mapping[str, Any]) -> str:
    if "default" in value:
        return ", none by default" if value["default"] is None else f", {value['default']} by default"
    return ", one a member, equal by default" if name == "weights" else ""


def _type(value: Mapping[str, Any]) -> str:
    """What a value may be, in words."""
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(part) for part in value["anyOf"] if part.get("type") != "null"))
    if "enum" in value:
        return " or ".join(f"`{known}`" for known in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if "$ref" in value:
        return "keys of a model"
    if value.get("type") == "array":
        return f"list of {_type(value['items'])}".replace("number", "numbers")
    bound = f" of at least {value['minimum']}" if "minimum" in value else ""
    return _TYPES.get(value.get("type", ""), "any value") + bound


def _yaml(value: Mapping[str, Any]) -> str:
    """On one line, without the braces around it all."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True).strip()
    return text[1:-1]


def _table(header: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"

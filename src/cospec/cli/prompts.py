"""Where prompts come from: the command line, standard input, or a file of JSON lines."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidPrompt
from ..inputs import check_unicode, decoded, lines, parse_json, read_text

STDIN = "-"


@dataclass(frozen=True, kw_only=True)
class PromptEntry:
    """A prompt. where: its place, for messages. extra: the fields that are copied into its result."""

    text: str
    where: str
    extra: Mapping[str, object]


def read_prompts(prompt: str | None, file: Path | None) -> list[PromptEntry]:
    """The prompt, or those of the file. Raises InvalidPrompt unless exactly one is given, and is text."""
    if file is not None and prompt is None:
        return _from_file(file)
    if prompt is None or file is not None:
        raise InvalidPrompt(f"give a PROMPT ({STDIN} reads it from standard input) or --prompts FILE, one of the two")
    if prompt != STDIN:
        return [_entry(prompt, "PROMPT")]
    text = decoded(sys.stdin.buffer.read(), "standard input", InvalidPrompt)
    # The newline that ends the last line is no part of the prompt.
    return [_entry(text.removesuffix("\n"), "standard input")]


def _from_file(file: Path) -> list[PromptEntry]:
    text = read_text(file, InvalidPrompt, "prompts")
    entries = [_from_line(line, where) for line, where in lines(text, str(file))]
    if not entries:
        raise InvalidPrompt(f"{file} holds no prompts; give a JSON string or object a line")
    return entries


def _from_line(line: str, where: str) -> PromptEntry:
    value = parse_json(line, where, InvalidPrompt)
    text = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise InvalidPrompt(f'{where}: give a JSON string, or an object with "prompt": "..." and perhaps "id"')
    return _entry(text, where, {"id": value["id"]} if isinstance(value, dict) and "id" in value else {})


def _entry(text: str, where: str, extra: Mapping[str, object] | None = None) -> PromptEntry:
    check_unicode(text, f"{where}: the prompt", InvalidPrompt)
    return PromptEntry(text=text, where=where, extra=extra or {})

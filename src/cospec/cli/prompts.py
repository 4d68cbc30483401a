"""Where prompts come from: the command line, standard input, or a file of JSON lines."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidPrompt

STDIN = "-"


@dataclass(frozen=True, kw_only=True)
class PromptEntry:
    """A prompt, and where it stands for messages. extra: what is carried over into its result."""

    text: str
    where: str
    extra: Mapping[str, object]


def read_prompts(prompt: str | None, file: Path | None) -> list[PromptEntry]:
    """The prompt, or those of the file. Raises InvalidPrompt unless exactly one is given, and is text."""
    if (prompt is None) == (file is None):
        raise InvalidPrompt(f"give a PROMPT ({STDIN} reads it from standard input) or --prompts FILE, one of the two")
    if file is not None:
        return _from_file(file)
    assert prompt is not None
    text, where = (_from_stdin(), "standard input") if prompt == STDIN else (prompt, "PROMPT")
    return [PromptEntry(text=_checked(text, where), where=where, extra={})]


def _from_stdin() -> str:
    """All of it, less the newline that ends its last line."""
    return _decoded(sys.stdin.buffer.read(), "standard input").removesuffix("\n")


def _from_file(file: Path) -> list[PromptEntry]:
    try:
        text = _decoded(file.read_bytes(), str(file))
    except OSError as error:
        raise InvalidPrompt(f"no prompts can be read from {str(file)!r}: {error.strerror or error}") from None
    # Only "\n" ends a line of JSON lines; str.splitlines knows more.
    lines = enumerate(text.split("\n"), start=1)
    entries = [_from_line(line, f"{file}:{number}") for number, line in lines if line.strip()]
    if not entries:
        raise InvalidPrompt(f"{file} holds no prompts; give a JSON string or object a line")
    return entries


def _from_line(line: str, where: str) -> PromptEntry:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidPrompt(f"{where}: not JSON ({error})") from None
    text = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise InvalidPrompt(f'{where}: give a JSON string, or an object with "prompt": "..." and perhaps "id"')
    extra = {"id": value["id"]} if isinstance(value, dict) and "id" in value else {}
    return PromptEntry(text=_checked(text, where), where=where, extra=extra)


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidPrompt(f"{where} is not UTF-8: byte {error.start} is {raw[error.start]:#04x}") from None


def _checked(text: str, where: str) -> str:
    """`text`, unless it has half a surrogate pair, which no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidPrompt(f"{where}: the prompt is not valid Unicode") from None
    return text

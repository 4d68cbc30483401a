"""Where prompts come from: the command line, standard input, or a file of JSON lines."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidPrompt, shown
from ..inputs import check_unicode, decoded, lines, parse_json, read_text, whole_number

STDIN = "-"


@dataclass(frozen=True, kw_only=True)
class PromptEntry:
    """A prompt, a text or token ids. where: its place, for messages. extra: the fields that are copied into its
    result."""

    prompt: str | list[int]
    where: str
    extra: Mapping[str, object]

    @property
    def text(self) -> str:
        """The prompt of a command that takes no ids. Raises InvalidPrompt for ids."""
        if not isinstance(self.prompt, str):
            raise InvalidPrompt(f"{self.where}: this command takes texts, and token ids are given; give a text")
        return self.prompt


def read_prompts(prompt: str | None, file: Path | None, token_ids: str | None = None) -> list[PromptEntry]:
    """The prompt, or those of the file. Raises InvalidPrompt unless exactly one of the three is given."""
    if sum(given is not None for given in (prompt, file, token_ids)) != 1:
        raise InvalidPrompt(
            f"give a PROMPT ({STDIN} reads it from standard input, --token-ids takes it as ids) or --prompts FILE, "
            "one of the two"
        )
    if file is not None:
        return _from_file(file)
    if token_ids is not None:
        return [_entry(_ids(token_ids), "--token-ids")]
    if prompt != STDIN:
        return [_entry(prompt, "PROMPT")]
    text = decoded(sys.stdin.buffer.read(), "standard input", InvalidPrompt)
    # The newline that ends the last line is no part of the prompt.
    return [_entry(text.removesuffix("\n"), "standard input")]


def _ids(text: str) -> list[int]:
    ids = [whole_number(part) for part in re.split(r"[\s,]+", text.strip().strip("[]").strip())]
    if None in ids:
        raise InvalidPrompt(f"--token-ids must be whole numbers such as 15,496,11, got {shown(text)}")
    return [token for token in ids if token is not None]


def _from_file(file: Path) -> list[PromptEntry]:
    text = read_text(file, InvalidPrompt, "prompts")
    entries = [_from_line(line, where) for line, where in lines(text, str(file))]
    if not entries:
        raise InvalidPrompt(f"{file} holds no prompts; give a JSON string or object a line")
    return entries


def _from_line(line: str, where: str) -> PromptEntry:
    value = parse_json(line, where, InvalidPrompt)
    prompt = value.get("prompt") if isinstance(value, dict) else value
    is_ids = isinstance(prompt, list) and all(type(token) is int and token >= 0 for token in prompt)
    if not isinstance(prompt, str) and not is_ids:
        raise InvalidPrompt(
            f'{where}: give a JSON string, or an object with "prompt": "..." or a list of token ids, and perhaps "id"'
        )
    return _entry(prompt, where, {"id": value["id"]} if isinstance(value, dict) and "id" in value else {})


def _entry(prompt: Any, where: str, extra: Mapping[str, object] | None = None) -> PromptEntry:
    if isinstance(prompt, str):
        check_unicode(prompt, f"{where}: the prompt", InvalidPrompt)
    return PromptEntry(prompt=prompt, where=where, extra=extra or {})

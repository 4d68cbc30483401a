"""Where prompts come from: the command line, standard input, or a file of JSON lines."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import demo
from ..errors import InvalidPrompt, shown
from ..inputs import at, check_unicode, decoded, lines, parse_json, read_text, whole_number
from ..prompts import Chat
from .chat_options import ChatOptions
from .chats import GivenPrompt
from .options import STDIN


@dataclass(frozen=True, kw_only=True)
class PromptEntry:
    """A prompt: a text, token ids or a chat. where: its place, for messages. extra: the fields that are copied into its
    result."""

    prompt: GivenPrompt
    where: str
    extra: Mapping[str, object]


def read_prompts(
    prompt: str | None, file: Path | None, token_ids: str | None = None, *, chats: ChatOptions
) -> list[PromptEntry]:
    """The prompt, or those of the file, as chats if those are asked for. Raises InvalidPrompt unless exactly one of the
    three is given."""
    entries = _read(prompt, file, token_ids)
    return [replace(entry, prompt=chats.as_asked(entry.prompt, entry.where)) for entry in entries]


def bundled_or_read(bundled: Sequence[str], file: Path | None, chats: ChatOptions) -> list[GivenPrompt]:
    """The prompts of the file; without one the bundled ones, which are others for chats. Raises InvalidPrompt."""
    if file is None:
        texts = [messages[0]["content"] for messages in demo.chats()] if chats.is_asked else bundled
        return [chats.as_asked(text, "a bundled prompt") for text in texts]
    return [entry.prompt for entry in read_prompts(None, file, chats=chats)]


def _read(prompt: str | None, file: Path | None, token_ids: str | None) -> list[PromptEntry]:
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
    # All of it, a newline at its end too: a prompt is what was given.
    return [_entry(decoded(sys.stdin.buffer.read(), "standard input", InvalidPrompt), "standard input")]


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
    given = value if isinstance(value, dict) else {"prompt": value}
    if {"prompt", "messages"} <= given.keys():
        raise InvalidPrompt(f'{where}: "prompt" and "messages" exclude each other; give one of them')
    extra = {"id": given["id"]} if "id" in given else {}
    if "messages" in given:
        with at(where):
            kwargs = given.get("chat_template_kwargs", {})
            return _entry(Chat(messages=given["messages"], plain=True, template_kwargs=kwargs), where, extra)
    if "chat_template_kwargs" in given:
        raise InvalidPrompt(f'{where}: "chat_template_kwargs" is for chats; give "messages", or leave it out')
    prompt = given.get("prompt")
    is_ids = isinstance(prompt, list) and all(type(token) is int and token >= 0 for token in prompt)
    if not isinstance(prompt, str) and not is_ids:
        raise InvalidPrompt(
            f'{where}: give a JSON string, or an object with "prompt": "..." or a list of token ids, or "messages": '
            '[...], and perhaps "id"'
        )
    return _entry(prompt, where, extra)


def _entry(prompt: Any, where: str, extra: Mapping[str, object] | None = None) -> PromptEntry:
    if isinstance(prompt, str):
        check_unicode(prompt, f"{where}: the prompt", InvalidPrompt)
    return PromptEntry(prompt=prompt, where=where, extra=extra or {})

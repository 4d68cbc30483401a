"""Batch files: lines in OpenAI's batch shape, or bare bodies, to calls of endpoints; and answers to lines."""

import codecs
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CospecError, InvalidPrompt
from ..resume import SETTINGS, Settings, digest
from .fields import check_defaults
from .offline import Answer, EndpointCall

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


class InvalidLine(CospecError):
    """A line that is no request."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the input.

    number: counted from 1. settings: everything that its answer depends on, the line itself as a hash. names:
    identifiers that are copied into its answer. is_wrapped: whether it is in OpenAI's batch shape. call: None for a
    line that is wrong, as `error` says.
    """

    number: int
    settings: Settings
    names: Mapping[str, object]
    is_wrapped: bool = False
    call: EndpointCall | None = None
    error: str | None = None

    def refusal(self) -> dict[str, Any]:
        """The output line for a line that is wrong."""
        assert self.error is not None
        error = {"code": "invalid_line", "message": self.error}
        return (
            self._wrapped(None, error)
            if self.is_wrapped
            else {"line": self.number, **self.names, "error": error, SETTINGS: self.settings}
        )

    def record(self, answer: Answer) -> dict[str, Any]:
        """The output line: in OpenAI's batch shape if the input was, else the answer itself and its `text`."""
        if self.is_wrapped:
            response = {"status_code": answer.status, "request_id": f"req_{self.number}", "body": answer.body}
            return self._wrapped(response, None)
        record = {**answer.body, **self.names, "line": self.number}
        if choices := answer.body.get("choices"):
            record["text"] = choices[0]["text"] if "text" in choices[0] else choices[0]["message"]["content"]
        return {**record, SETTINGS: self.settings}

    def _wrapped(self, response: dict[str, Any] | None, error: dict[str, Any] | None) -> dict[str, Any]:
        head = {"id": f"batch_req_{self.number}", "line": self.number, **self.names}
        return {**head, "response": response, "error": error, SETTINGS: self.settings}


def is_refusal(row: Settings) -> bool:
    """Whether an output line says that its request was refused."""
    response = row.get("response")
    return bool(row.get("error")) or (isinstance(response, Mapping) and response.get("status_code") != 200)


def read_lines(raw: bytes, where: str, defaults: Mapping[str, Any], settings: Settings) -> list[Line]:
    """Every line of `raw` that is not blank.

    where: the file's name, for messages. defaults: fields for the bodies that leave them out. settings: what all
    answers depend on besides, in JSON's types. Raises InvalidPrompt if there is no line, UnknownName for a default that
    no request has.
    """
    check_defaults(defaults)
    lines = []
    for number, line in enumerate(raw.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if line.strip():
            own = {"request": digest(line.strip().decode(errors="surrogateescape")), "defaults": defaults, **settings}
            lines.append(_read(number, own, line.strip(), f"{where}:{number}", defaults))
    if not lines:
        raise InvalidPrompt(f'{where} holds no requests; give a line each, such as {{"prompt": "Once", "seed": 1}}')
    return lines


def _read(number: int, settings: Settings, line: bytes, where: str, defaults: Mapping[str, Any]) -> Line:
    names: dict[str, object] = {}
    is_wrapped = False
    try:
        value = _parsed(line)
        is_wrapped = "custom_id" in value or "body" in value
        name = "custom_id" if is_wrapped else "id"
        names = {name: value[name]} if name in value else {}
        url, body = _unwrapped(value) if is_wrapped else _bare(value)
        if body.get("stream"):
            raise InvalidLine("stream has no meaning in a batch; leave it out")
        call = EndpointCall(number=number, url=url, body={**defaults, **body})
        return Line(number=number, settings=settings, names=names, is_wrapped=is_wrapped, call=call)
    except InvalidLine as error:
        return Line(number=number, settings=settings, names=names, is_wrapped=is_wrapped, error=f"{where}: {error}")


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidLine(f"not JSON ({error})") from None
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        raise InvalidLine(f"a request is an object or a string, got {type(value).__name__}")
    return value


def _unwrapped(value: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The url and body of a line in OpenAI's batch shape."""
    url, body, method = value.get("url"), value.get("body"), value.get("method", "POST")
    if not isinstance(value.get("custom_id"), str):
        raise InvalidLine(f"custom_id must be a text, got {value.get('custom_id')!r}")
    if method != "POST":
        raise InvalidLine(f"method must be POST, got {method!r}")
    if url not in (COMPLETIONS, CHAT):
        raise InvalidLine(f"url must be {COMPLETIONS} or {CHAT}, got {url!r}")
    if not isinstance(body, dict):
        raise InvalidLine(f"body must be an object, got {body!r}")
    return url, body


def _bare(value: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The url and body of a line that is itself the body of a completion or a chat."""
    if ("prompt" in value) == ("messages" in value):
        raise InvalidLine('give "prompt" or "messages", or a line of OpenAI\'s batches')
    return COMPLETIONS if "prompt" in value else CHAT, {key: value[key] for key in value if key != "id"}

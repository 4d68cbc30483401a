"""Batches: lines of JSON in OpenAI's batch shape, or bare prompts, as calls; and their answers as lines."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from ..errors import CospecError, InvalidPrompt
from .offline import Answer, Call

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


class InvalidLine(CospecError):
    """A line that asks for nothing that can be answered."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the input, its number counted from 1, and what it asks for. names: what its answer is told apart by.

    digest: of the line, and of all else that its text depends on. is_wrapped: in OpenAI's batch shape. call: None where
    the line is wrong, which `error` tells.
    """

    number: int
    digest: str
    names: Mapping[str, object]
    is_wrapped: bool = False
    call: Call | None = None
    error: str | None = None

    def refusal(self) -> dict[str, Any]:
        """What is written for a line that is wrong."""
        assert self.error is not None
        error = {"code": "invalid_line", "message": self.error}
        return self._wrapped(None, error) if self.is_wrapped else {**self._key, **self.names, "error": error}

    def record(self, answer: Answer) -> dict[str, Any]:
        """What is written for its answer: in OpenAI's batch shape if it came so, else the answer itself and `text`."""
        if self.is_wrapped:
            response = {"status_code": answer.status, "request_id": f"req_{self.number}", "body": answer.body}
            return self._wrapped(response, None)
        told = {**answer.body, **self.names, **self._key}
        choices = answer.body.get("choices")
        return {**told, "text": _text(choices[0])} if choices else told

    @property
    def _key(self) -> dict[str, Any]:
        """What a later run knows its answer by."""
        return {"line": self.number, "digest": self.digest}

    def _wrapped(self, response: dict[str, Any] | None, error: dict[str, Any] | None) -> dict[str, Any]:
        head = {"id": f"batch_req_{self.number}", **self._key, **self.names}
        return {**head, "response": response, "error": error}


def read_lines(raw: bytes, where: str, defaults: Mapping[str, Any], target: object) -> list[Line]:
    """Every line of `raw` that is not blank. defaults: fields for the bodies that leave them out. target: what texts
    are drawn from, ready for JSON.

    Raises InvalidPrompt if there is none.
    """
    others = json.dumps([target, defaults], sort_keys=True).encode()
    numbered = ((number, line.strip()) for number, line in enumerate(raw.split(b"\n"), start=1))
    lines = [
        _read(number, _digest(line, others), line, f"{where}:{number}", defaults) for number, line in numbered if line
    ]
    if not lines:
        raise InvalidPrompt(f'{where} holds no requests; give a line each, such as {{"prompt": "Once", "seed": 1}}')
    return lines


def as_calls(lines: Sequence[Line]) -> list[Call]:
    """Those of the lines that are right."""
    return [line.call for line in lines if line.call is not None]


def _digest(line: bytes, others: bytes) -> str:
    return blake2b(others + b"\n" + line, digest_size=8).hexdigest()


def _read(number: int, digest: str, line: bytes, where: str, defaults: Mapping[str, Any]) -> Line:
    names: dict[str, object] = {}
    is_wrapped = False
    try:
        value = _parsed(line)
        is_wrapped = "custom_id" in value or "body" in value
        names = {key: value[key] for key in ("custom_id", "id") if key in value and is_wrapped == (key == "custom_id")}
        url, body = _unwrapped(value) if is_wrapped else _bare(value)
        if body.get("stream"):
            raise InvalidLine("stream has no meaning in a batch; leave it out")
        call = Call(number=number, url=url, body={**defaults, **body})
        return Line(number=number, digest=digest, names=names, is_wrapped=is_wrapped, call=call)
    except InvalidLine as error:
        return Line(number=number, digest=digest, names=names, is_wrapped=is_wrapped, error=f"{where}: {error}")


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
    """The url and body of a line that is a body itself, a completion's or a chat's."""
    if ("prompt" in value) == ("messages" in value):
        raise InvalidLine('give "prompt" or "messages", or a line of OpenAI\'s batches')
    return COMPLETIONS if "prompt" in value else CHAT, {key: value[key] for key in value if key != "id"}


def _text(choice: Mapping[str, Any]) -> Any:
    return choice["text"] if "text" in choice else choice["message"]["content"]

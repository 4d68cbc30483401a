"""Files that users write (YAML, JSON lines) -> checked values, with errors that name the file and the place in it."""

import codecs
import json
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import is_typeddict

from .errors import CospecError, UnknownName, shown

T = TypeVar("T")
Place: TypeAlias = tuple[str | int, ...]

# What a value of each kind of pydantic's errors should have been.
_WANTED = {
    "bool_type": "true or false",
    "dataclass_type": "keys and values",
    "dict_type": "keys and values",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "string_type": "a text",
    "tuple_type": "a list",
}
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")


def read_text(path: Path, kind: type[CospecError], what: str = "settings") -> str:
    """The file's text, from UTF-8, without a byte-order mark. Raises `kind`, with the line of a byte at fault."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise kind(f"no {what} can be read from {str(path)!r}: {error.strerror or error}") from None
    return decoded(raw.removeprefix(codecs.BOM_UTF8), str(path), kind)


def decoded(raw: bytes, where: str, kind: type[CospecError]) -> str:
    """UTF-8 as text. Raises `kind`, with the line of the byte at fault."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise kind(f"{where}:{line} is not UTF-8: byte {error.start} is {raw[error.start]:#04x}") from None


def read_yaml(path: Path, kind: type[CospecError]) -> Any:
    """The file's value; {} for an empty file. Raises `kind` for a file that cannot be read or is not YAML."""
    text = read_text(path, kind)
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise kind(f"{path} is not YAML: {error}") from None
    return {} if value is None else value


def lines(text: str, name: str) -> Iterator[tuple[str, str]]:
    """The lines that are not blank, each with its place, `name:number`."""
    # Only "\n" ends a line of JSON lines, and "\r\n" one that Windows wrote; str.splitlines knows more.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield line.removesuffix("\r"), f"{name}:{number}"


def parse_json(line: str, where: str, kind: type[CospecError]) -> Any:
    """Raises `kind` for what is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise kind(f"{where}: not JSON ({error})") from None


def check_unicode(text: str, what: str, kind: type[CospecError]) -> None:
    """Raises `kind` for half a surrogate pair, which no tokenizer takes."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise kind(f"{what} is not valid Unicode")


def without_nulls(value: Any, cls: type) -> Any:
    """A mapping without the keys of this dataclass that are null, where null means the same as no line."""
    if not isinstance(value, Mapping):
        return value
    known = get_type_hints(cls)
    return {key: inner for key, inner in value.items() if inner is not None or key not in known}


def validated(cls: type[T], value: Any, where: str, kind: type[CospecError]) -> T:
    """An object of a dataclass or TypedDict from plain data, held strictly against the annotations.

    A number in quotes is no number, 1 is not true, and null only where the annotation allows it. where: names the file
    in messages. Raises UnknownName for an unknown key, `kind` for any other fault, and what the class itself raises.
    """
    if not isinstance(value, Mapping):
        example = next(iter(get_type_hints(cls)))
        raise kind(f"{where} holds no settings; want keys and values, such as {example}: ..., got {_shown(value)}")
    try:
        foreign = _foreign(value)
        # JSON's rules: a list may become a tuple, a mapping a dataclass, a whole number a float, and nothing else.
        text = "" if foreign else json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise kind(f"{where} holds a value that is no text, number, list or mapping: {error}") from None
    if foreign:
        place, given = foreign
        raise kind(f"{_written(where, place)}: want a finite number, a text, a list or a mapping, got {_shown(given)}")
    hint: Any = cls
    try:
        made: T = _adapter(hint).validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        raise _explained(error, cls, value, where, kind) from None
    return made


def _foreign(value: Any, place: Place = ()) -> tuple[Place, Any] | None:
    """The first value that JSON does not have, such as a date or an infinite number, with its place."""
    if isinstance(value, Mapping):
        return next((found for key, inner in value.items() if (found := _foreign(inner, (*place, str(key))))), None)
    if isinstance(value, list | tuple):
        return next((found for i, inner in enumerate(value) if (found := _foreign(inner, (*place, i)))), None)
    is_known = value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and isfinite(value))
    return None if is_known else (place, value)


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def _explained(error: ValidationError, cls: Any, value: Any, where: str, kind: type[CospecError]) -> CospecError:
    """One fault as an error of ours. A value of a union has a fault for each alternative, at one place."""
    found = [(_place(fault, value), fault) for fault in error.errors(include_url=False)]
    # A misspelt key comes first, since it may also be the one that is missing.
    for place, fault in found:
        if fault["type"] in _UNKNOWN_KEY:
            *outer, name = place
            return UnknownName(f"key of {_written(where, tuple(outer))}", str(name), _keys(cls, tuple(outer)))
    top = found[0][0][:1]
    # Of alternatives the one that fits the furthest was meant.
    depth = max(len(place) for place, _ in found if place[:1] == top)
    deepest = [(place, fault) for place, fault in found if place[:1] == top and len(place) == depth]
    place, fault = deepest[0]
    if fault["type"] == "missing":
        return kind(f"{_written(where, place[:-1])} without `{place[-1]}`; it needs one")
    wanted = " or ".join(dict.fromkeys(_wanted(each) for at, each in deepest if at == place))
    return kind(f"{_written(where, place)}: want {wanted}, got {_shown(fault['input'])}")


def _place(fault: ErrorDetails, value: Any) -> Place:
    """The keys and indices of the value at fault. pydantic's own path names the alternatives of unions as well."""
    place: list[str | int] = []
    *path, last = fault["loc"] or ("",)
    is_key = fault["type"] in (*_UNKNOWN_KEY, "missing")
    for key in path if is_key else fault["loc"]:
        is_item = isinstance(key, int) and isinstance(value, list)
        if is_item or (isinstance(value, Mapping) and key in value):
            value = value[key]
            place.append(key)
    return (*place, last) if is_key else tuple(place)


def _written(where: str, place: Place) -> str:
    """`file: relaxed.lambdas[0]`."""
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)
    return f"{where}: {path.removeprefix('.')}" if path else where


def _wanted(fault: ErrorDetails) -> str:
    if fault["type"] == "literal_error":
        return str(fault["ctx"]["expected"])
    return _WANTED.get(fault["type"]) or fault["msg"].removeprefix("Input should be ")


def _shown(value: Any) -> str:
    return "null" if value is None else shown(value)


def _keys(hint: Any, place: Place) -> list[str]:
    """The keys that a mapping at this place may have, in values of this type."""
    if is_dataclass(hint) or is_typeddict(hint):
        hints = get_type_hints(hint)
        return [*hints] if not place else _keys(hints.get(str(place[0])), place[1:])
    inner = place[1:] if get_origin(hint) in (list, tuple, dict) else place
    return [key for argument in get_args(hint) for key in _keys(argument, inner)]

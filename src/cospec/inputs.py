"""Files that users write (YAML, JSON lines) -> checked values, with errors that name the file and the place in it."""

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails
from typing_extensions import is_typeddict

from .errors import CospecError, UnknownName, shown

T = TypeVar("T")
# Python refuses to read numbers of thousands of digits.
MOST_DIGITS = 18
Place: TypeAlias = tuple[str | int, ...]
Count: TypeAlias = Annotated[int, Field(ge=1)]
Counts: TypeAlias = Annotated[list[Count], Field(min_length=1)]
Name: TypeAlias = Annotated[str, Field(min_length=1)]
EndTokens: TypeAlias = Annotated[list[Annotated[int, Field(ge=0)] | Name], Field(min_length=1)]

# What a value of each kind of pydantic's errors should have been.
_WANTED = {
    "bool_type": "true or false",
    "greater_than_equal": "a number of at least {ge}",
    "too_short": "a list that is not empty",
    "string_too_short": "a text that is not empty",
    "sequence_str": "a list",
    "is_instance_of": "a list",
    "dataclass_type": "keys and values",
    "dict_type": "keys and values",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "string_type": "a text",
    "tuple_type": "a list",
}
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a key of a file is for, as documents and editors show it: a note in `Annotated`.

    default: as it is described, empty for a key that must be given. known: the texts that it may have, where those are
    few. example: YAML.
    """

    meaning: str
    default: str = ""
    example: str = ""
    known: Callable[[], Sequence[str]] | None = None

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Callable[[Any], dict[str, Any]]) -> Any:
        """pydantic's hook: the schema of the value, with what is known of the key."""
        schema = handler(core_schema)
        if self.known is not None:
            schema = _with_choices(schema, [*self.known()])
        shown_default = f" Default: {self.default}." if self.default else ""
        return {**schema, "description": f"{self.meaning}{shown_default}", "examples": [yaml.safe_load(self.example)]}


def _with_choices(schema: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """The schema with these texts in place of any."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [_with_choices(part, known) for part in schema["anyOf"]]}
    return {"type": "string", "enum": known} if schema.get("type") == "string" else dict(schema)


@contextmanager
def at(where: str) -> Iterator[None]:
    """Puts a place in front of an error of ours that is raised within: `mine.yaml: members[1]: ...`."""
    try:
        yield
    except CospecError as error:
        error.args = (f"{where}: {error}",)
        raise


class _Loader(yaml.SafeLoader):
    """YAML with numbers such as 1e-3, as everywhere else, and no key twice in one mapping."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: list[Any] = []
        for key, _ in node.value:
            name = (key.tag, key.value)
            if name in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {shown(key.value)} stands twice in one mapping; leave one", key.start_mark
                )
            seen.append(name)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+][0-9]+$"), [*"-+0123456789"]
)


def read_text(path: Path, kind: type[CospecError], what: str = "settings") -> str:
    """The file's text, as `decoded` reads it. Raises `kind`, with the line of a byte at fault."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise kind(f"no {what} can be read from {str(path)!r}: {error.strerror or error}") from None
    return decoded(raw, str(path), kind)


def decoded(raw: bytes, where: str, kind: type[CospecError]) -> str:
    """UTF-8 as text, without a byte-order mark. Raises `kind`, with the line of the byte at fault."""
    try:
        return raw.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise kind(f"{where}:{line} is not UTF-8: byte {error.start} is {raw[error.start]:#04x}") from None


def read_yaml(path: Path, kind: type[CospecError]) -> Any:
    """The file's value; {} for an empty file. Raises `kind` for a file that cannot be read or is not YAML."""
    return parse_yaml(read_text(path, kind), str(path), kind)


def parse_yaml(text: str, where: str, kind: type[CospecError]) -> Any:
    """The value of YAML; {} for an empty text. where: names it in messages. Raises `kind` for what is not YAML."""
    try:
        value = yaml.load(text, _Loader)
    except yaml.constructor.ConstructorError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise kind(f"{where}{line}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise kind(f"{where} is not YAML: {error}") from None
    return {} if value is None else value


def lines(text: str, name: str) -> Iterator[tuple[str, str]]:
    """The lines that are not blank, each with its place, `name:number`."""
    # Only "\n" ends a line of JSON lines, and "\r\n" one that Windows wrote; str.splitlines knows more.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield line.removesuffix("\r"), f"{name}:{number}"


def whole_number(text: str) -> int | None:
    """The number that decimal digits write; None for any other text, and for more digits than any count or id has."""
    digits = text.strip()
    return int(digits) if digits.isdecimal() and len(digits) <= MOST_DIGITS else None


def parse_json(line: str, where: str, kind: type[CospecError]) -> Any:
    """Raises `kind` for what is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise kind(f"{where}: not JSON ({error})") from None


def check_unicode(text: str, what: str, kind: type[CospecError]) -> None:
    """Raises `kind` for half a surrogate pair, which no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise kind(f"{what} is not valid Unicode: half of a surrogate pair is no character") from None


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
    made: T = checked(cls, value, where, kind)
    return made


def checked(hint: Any, value: Any, where: str, kind: type[CospecError], outer: Place = ()) -> Any:
    """The same for a value of any type; one that cannot be written down, such as a function, is not held against it.

    outer: the place of the value in the file.
    """
    try:
        foreign = _foreign(value)
        # JSON's rules: a list may become a tuple, a mapping a dataclass, a whole number a float, and nothing else.
        text = "" if foreign else json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise kind(f"{where} holds a value that is no text, number, list or mapping: {error}") from None
    if foreign:
        place, given = foreign
        wanted = "a finite number, a text, a list or a mapping"
        raise kind(f"{_written(where, (*outer, *place))}: want {wanted}, got {_shown(given)}")
    try:
        return _adapter(hint).validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        raise _explained(error, hint, value, where, kind, outer) from None


def _foreign(value: Any, place: Place = ()) -> tuple[Place, Any] | None:
    """The first value that JSON does not have, such as a date or an infinite number, with its place."""
    if isinstance(value, Mapping):
        return next((found for key, inner in value.items() if (found := _foreign(inner, (*place, str(key))))), None)
    if isinstance(value, list | tuple):
        return next((found for i, inner in enumerate(value) if (found := _foreign(inner, (*place, i)))), None)
    is_known = value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and isfinite(value))
    return None if is_known else (place, value)


def _adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        return _cached_adapter(hint)
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError):
        return _cached_adapter(Any)


@cache
def _cached_adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def json_schema(hint: Any) -> dict[str, Any]:
    """The JSON schema of a file's values, in which a mapping has no key but those of its type."""
    schema = _adapter(hint).json_schema(schema_generator=_AsWritten)
    for part in (schema, *schema.get("$defs", {}).values()):
        if "properties" in part:
            part["additionalProperties"] = False
    return schema


class _AsWritten(GenerateJsonSchema):
    """Keys in their order, without titles that say the same once more."""

    def sort(self, value: Any, parent_key: str | None = None) -> Any:
        return value

    def get_title_from_name(self, name: str) -> str:
        return name


def _explained(
    error: ValidationError, cls: Any, value: Any, where: str, kind: type[CospecError], before: Place
) -> CospecError:
    """One fault as an error of ours. A value of a union has a fault for each alternative, at one place."""
    found = [(_place(fault, value), fault) for fault in error.errors(include_url=False)]
    # A misspelt key comes first, since it may also be the one that is missing.
    for place, fault in found:
        if fault["type"] in _UNKNOWN_KEY:
            *outer, name = place
            return UnknownName(f"key of {_written(where, (*before, *outer))}", str(name), _keys(cls, tuple(outer)))
    top = found[0][0][:1]
    # Of alternatives the one that fits the furthest was meant.
    depth = max(len(place) for place, _ in found if place[:1] == top)
    deepest = [(place, fault) for place, fault in found if place[:1] == top and len(place) == depth]
    place, fault = deepest[0]
    if fault["type"] == "missing":
        return kind(f"{_written(where, (*before, *place[:-1]))} without `{place[-1]}`; it needs one")
    wanted = " or ".join(dict.fromkeys(_wanted(each) for spot, each in deepest if spot == place))
    return kind(f"{_written(where, (*before, *place))}: want {wanted}, got {_shown(fault['input'])}")


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
    wanted = _WANTED.get(fault["type"])
    return wanted.format_map(fault.get("ctx", {})) if wanted else fault["msg"].removeprefix("Input should be ")


def _shown(value: Any) -> str:
    return "null" if value is None else shown(value)


def _keys(hint: Any, place: Place) -> list[str]:
    """The keys that a mapping at this place may have, in values of this type."""
    if is_dataclass(hint) or is_typeddict(hint):
        hints = get_type_hints(hint)
        return [*hints] if not place else _keys(hints.get(str(place[0])), place[1:])
    inner = place[1:] if get_origin(hint) in (list, tuple, dict) else place
    return [key for argument in get_args(hint) for key in _keys(argument, inner)]

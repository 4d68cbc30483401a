"""Plain data (JSON, YAML) -> frozen dataclasses, with an error that names the key at fault."""

from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import InvalidPilot, UnknownName

T = TypeVar("T")

_NAMES = {float: "a number", int: "a whole number", str: "a text", bool: "true or false", NoneType: "null"}


def read(cls: type[T], value: Any, where: str) -> T:
    """An object of this dataclass. where: what the errors call it, such as the file's name.

    A null that the field cannot be is no value. Raises UnknownName for a key that the class does not have, InvalidPilot
    for a value of the wrong type, a key that is missing, or what the class itself refuses.
    """
    made: T = _dataclass(cls, value, where)
    return made


def _dataclass(cls: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InvalidPilot(f"{where}: want keys and values, such as {next(iter(_keys(cls)))}: ..., got {value!r}")
    hints, known = get_type_hints(cls), _keys(cls)
    for key in value:
        if key not in known:
            raise UnknownName(f"key of {where}", str(key), known)
    given = {
        key: _value(hints[key], inner, f"{where}: {key}")
        for key, inner in value.items()
        if inner is not None or _may_be_none(hints[key])
    }
    try:
        return cls(**given)
    except TypeError as error:
        raise InvalidPilot(f"{where}: {str(error).partition('() ')[2]}") from None


def _may_be_none(hint: Any) -> bool:
    return hint is Any or NoneType in get_args(hint)


def _keys(cls: Any) -> list[str]:
    return [entry.name for entry in fields(cls)]


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _union(arguments, value, where)
    if is_dataclass(hint):
        return _dataclass(hint, value, where)
    if hint is Any:
        return value
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise InvalidPilot(f"{where}: want a list, got {value!r}")
        return origin(_value(arguments[0], inner, f"{where}[{i}]") for i, inner in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise InvalidPilot(f"{where}: want keys and values, got {value!r}")
        return {str(key): _value(arguments[1], inner, f"{where}: {key}") for key, inner in value.items()}
    if origin is Literal:
        if value not in arguments:
            raise InvalidPilot(f"{where}: want one of {', '.join(map(str, arguments))}, got {value!r}")
        return value
    return _plain(hint, value, where)


def _union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    """Of `X | None` the X, unless it is None."""
    if value is None and NoneType in arguments:
        return None
    (hint,) = (argument for argument in arguments if argument is not NoneType)
    return _value(hint, value, where)


def _plain(hint: Any, value: Any, where: str) -> Any:
    # True is a whole number to Python, and no count to anyone else.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(value)
    if type(value) is not hint:
        raise InvalidPilot(f"{where}: want {_NAMES[hint]}, got {value!r}")
    return value

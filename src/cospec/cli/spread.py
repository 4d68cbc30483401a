"""Options declared once, as the fields of a dataclass, and taken by any command that wants them."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from inspect import Parameter, Signature
from typing import Any


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """`command` as typer wants it: a parameter whose type is a dataclass is replaced by that class's fields.

    Called with the fields, it makes the dataclasses of them and hands those to `command`.
    """
    parameters = inspect.signature(command).parameters
    groups: dict[str, Any] = {
        name: each.annotation for name, each in parameters.items() if is_dataclass(each.annotation)
    }

    @functools.wraps(command)
    def spread_out(**given: Any) -> None:
        made = {
            name: group(**{entry.name: given.pop(entry.name) for entry in fields(group)})
            for name, group in groups.items()
        }
        command(**given, **made)

    flat = [each.replace(kind=Parameter.KEYWORD_ONLY) for name, each in parameters.items() if name not in groups]
    flat += [
        Parameter(entry.name, Parameter.KEYWORD_ONLY, default=entry.default, annotation=entry.type)
        for group in groups.values()
        for entry in fields(group)
    ]
    spread_out.__signature__ = Signature(flat)  # type: ignore[attr-defined]
    spread_out.__annotations__ = {each.name: each.annotation for each in flat}
    return spread_out

"""Options declared once, as the fields of a dataclass, and taken by any command that wants them. typer has no such."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from inspect import Parameter, Signature
from typing import Annotated, Any, get_args, get_origin, get_type_hints


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """`command` as typer wants it: a parameter whose type is a dataclass is replaced by the options that make one.

    `models: EnsembleOptions` is a class of options: each field is annotated with the option that sets it.
    `params: Annotated[SamplingParams, {"seed": Option(...)}]` is a class of the library with the options of those
    fields that can be set; name, type and default are the field's own.
    """
    flat: list[Parameter] = []
    groups: dict[str, _Group] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        made, *notes = get_args(parameter.annotation) or [parameter.annotation]
        if is_dataclass(made):
            groups[name] = _Group(made, _options(made, notes[0] if notes else None))
            flat += groups[name].options
        else:
            flat.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def spread_out(**given: Any) -> None:
        made = {name: group.make(given) for name, group in groups.items()}
        command(**given, **made)

    spread_out.__signature__ = Signature(flat)  # type: ignore[attr-defined]
    spread_out.__annotations__ = {each.name: each.annotation for each in flat}
    return spread_out


@dataclass(frozen=True)
class _Group:
    """A dataclass that a command takes, and the options that make one."""

    made: Any
    options: list[Parameter]

    def make(self, given: dict[str, Any]) -> Any:
        """One of the values of its options, which are taken out of `given`."""
        return self.made(**{option.name: given.pop(option.name) for option in self.options})


def _options(made: Any, table: Mapping[str, Any] | None) -> list[Parameter]:
    """A keyword for each option, annotated for typer, in the order of the table or else of the fields."""
    hints = get_type_hints(made, include_extras=True)
    defaults = {entry.name: entry.default for entry in fields(made)}
    if table is not None:
        hints = {name: Annotated[_on_command_line(hints[name]), option] for name, option in table.items()}
    return [
        Parameter(name, Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hint) for name, hint in hints.items()
    ]


def _on_command_line(hint: Any) -> Any:
    """The type as typer knows it: of a sequence, the list of what is given each time."""
    return list[get_args(hint)] if get_origin(hint) is Sequence else hint  # type: ignore[misc]

"""Options that may stand in the environment: `--max-waiting` as COSPEC_MAX_WAITING. typer reads them; what is added is
their names, and lists whose entries have white space in them."""

import copy
import json
import os
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import typer

# Options whose variable is one value, white space and all, unless it is a JSON list.
WHOLE = ("api_key", "member_prompts")


def with_variables(made: Any, *, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """The options of a class of options but these, each with its variable: a table as `spread` takes it."""
    return {
        entry.name: _with_variable(entry.name, entry.metadata["option"])
        for entry in fields(made)
        if entry.name not in leave_out
    }


def _with_variable(name: str, declared: Any) -> Any:
    # typer keeps the first flag as the default, until it reads the annotation.
    flags = [flag for flag in (declared.default, *(declared.param_decls or ())) if isinstance(flag, str)]
    made = copy.copy(declared)
    made.envvar = "COSPEC_" + (flags[0].removeprefix("--") if flags else name).replace("-", "_").upper()
    made.show_envvar = True
    made.callback = _as_written
    return made


def _as_written(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    """A list from the environment, which typer splits at white space: as JSON where it is a list there, and whole where
    splitting it would change what it means."""
    source = ctx.get_parameter_source(param.name or "")
    written = os.environ.get(str(param.envvar), "")
    if source is None or source.name != "ENVIRONMENT" or not isinstance(value, list) or not written:
        return value
    if not written.lstrip().startswith("["):
        return [written] if param.name in WHOLE else value
    try:
        entries = json.loads(written)
    except ValueError as error:
        raise typer.BadParameter(f"{param.envvar} begins with [ and is no JSON list: {error}") from None
    if not all(isinstance(entry, str) for entry in entries):
        # Not with its value, which may be a key.
        raise typer.BadParameter(f"{param.envvar} must be a JSON list of strings, or its entries between white space")
    return entries

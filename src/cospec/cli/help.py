"""Help texts: a section for each group of options, wrapped to the terminal without a last word on a line of its own."""

import io
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.text import Text

# The widest that names of options stand beside their help; a wider one stands above it.
_MOST_BESIDE = 30
_INDENT, _GAP = 2, 2
# Of every command: how its help is asked for.
SETTINGS = {"help_option_names": ["-h", "--help"]}
# Lines longer than this are hard to read.
_MOST_WIDTH = 120
# What a value is called whose option gives it no name.
_KINDS = {int: "N", float: "X", Path: "PATH", str: "TEXT"}


def with_help(command: Any) -> Any:
    """The command, and those below it, with these help texts, asked for by -h as well."""

    def write(context: Any, formatter: Any) -> None:
        formatter.write(rendered(command, context))

    command.format_help = write
    command.context_settings = {**command.context_settings, **SETTINGS}
    for each in getattr(command, "commands", {}).values():
        with_help(each)
    return command


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most this width, but for longer words, which stay whole; the last has more than one word."""
    made = [
        textwrap.wrap(text, narrower, break_long_words=False, break_on_hyphens=False)
        for narrower in range(width, max(width // 2, 1) - 1, -1)
    ]
    fits = (lines for lines in made if len(lines) < 2 or " " in lines[-1])
    return next(fits, made[0])


def rendered(command: Any, context: Any) -> str:
    """The help text of a command, for the terminal that it is shown on."""
    console = Console(file=io.StringIO(), force_terminal=sys.stdout.isatty(), highlight=False, soft_wrap=True)
    width = min(Console().width, _MOST_WIDTH)
    for line in _lines(command, context, width):
        console.print(line)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def _lines(command: Any, context: Any, width: int) -> Iterator[Text]:
    params = [param for param in command.get_params(context) if not getattr(param, "hidden", False)]
    arguments = [param for param in params if param.param_type_name == "argument"]
    commands = {name: each for name, each in getattr(command, "commands", {}).items() if not each.hidden}
    usage = [context.command_path, "[OPTIONS]", *map(_argument, arguments), *["COMMAND ..."] * bool(commands)]
    yield Text.assemble(("Usage: ", "bold"), " ".join(usage))
    for paragraph in (command.help or "").split("\n\n"):
        yield Text()
        yield from map(Text, wrapped(" ".join(paragraph.split()), width))
    sections: dict[str, list[tuple[str, str, str]]] = {}
    for param in params:
        is_argument = param.param_type_name == "argument"
        title = getattr(param, "rich_help_panel", None) or ("Arguments" if is_argument else "Options")
        names = "" if is_argument else ", ".join(sorted(param.opts, key=len))
        sections.setdefault(title, []).append((names, _metavar(param), _help(param, context)))
    if commands:
        rows = [(name, "", each.get_short_help_str(limit=1000)) for name, each in commands.items()]
        sections["Commands"] = rows
    for title, rows in sections.items():
        yield Text()
        yield Text(f"{title}:", "bold")
        yield from _section(rows, width)
    if command.epilog:
        yield Text()
        # An example is one command, to be copied as it is.
        yield Text(command.epilog)


def _section(rows: Iterable[tuple[str, str, str]], width: int) -> Iterator[Text]:
    """Names and the kind of value to the left, help to the right."""
    rows = list(rows)
    sizes = [len(f"{names} {kind}".strip()) for names, kind, _ in rows]
    beside = max([size for size in sizes if size <= _MOST_BESIDE], default=_MOST_BESIDE)
    left = _INDENT + beside + _GAP
    for (names, kind, text), size in zip(rows, sizes, strict=True):
        head = Text.assemble(" " * _INDENT, (names, "bold"), " " * bool(names and kind), kind)
        lines = wrapped(text, max(width - left, 20)) or [""]
        if size > beside:
            yield head
            yield Text(" " * left + lines[0])
        else:
            yield head.append(" " * (beside - size + _GAP) + lines[0])
        yield from (Text(" " * left + line) for line in lines[1:])


def _argument(param: Any) -> str:
    return _metavar(param) if param.required else f"[{_metavar(param)}]"


def _metavar(param: Any) -> str:
    """What a value is called; nothing for a flag."""
    if getattr(param, "is_flag", False) or getattr(param, "count", False):
        return ""
    if param.metavar:
        return str(param.metavar)
    return str(param.name).upper() if param.param_type_name == "argument" else _kind(param)


def _kind(param: Any) -> str:
    annotation = param.type_descriptor.annotation
    inner = get_args(annotation)
    return _KINDS.get(inner[0] if inner else annotation, "TEXT")


def _help(param: Any, context: Any) -> str:
    """The help of an option, with what is allowed, its variable and its default."""
    parts = [param.help or ""]
    least, most = getattr(param, "min", None), getattr(param, "max", None)
    if least is not None:
        parts.append(f"{least} to {most}." if most is not None else f"At least {least}.")
    if getattr(param, "envvar", None) and getattr(param, "show_envvar", True):
        parts.append(f"[env var: {param.envvar}]")
    shown = getattr(param, "show_default", None)
    default = param.get_default(context, call=False)
    if isinstance(shown, str):
        parts.append(f"[default: {shown}]")
    elif shown and not (default is None or default is False or default in ((), [])):
        values = default if isinstance(default, list | tuple) else [default]
        parts.append(f"[default: {' '.join(map(str, values))}]")
    return " ".join(filter(None, parts))

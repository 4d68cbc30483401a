"""The command line. A command's module is imported when that command is called, so that help comes at once."""

import io
import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import CospecError
from ..interrupts import raise_again
from .help import SETTINGS, rendered, with_help
from .output import interrupted, print_error

# Command: the first line of its help. Each is the function of its name in the module of its name.
COMMANDS = {
    "batch": "Answer a file of requests, and go on where it was cut off.",
    "bench": "Time every method on the same prompts.",
    "generate": "Decode text from several models at once.",
    "chat": "Talk with several models at once, as with one.",
    "serve": "Serve ensembles to OpenAI's clients, with a page.",
    "pilot": "Run a study on your own prompts that ends in go or no-go.",
    "models": "List the bundled models and ensembles.",
    "distil": "Train a drafter on what the ensemble itself decodes.",
    "tune": "Find the fastest plan on your own prompts and machine.",
    "export": "Write an ensemble for another engine to serve: as one model of vLLM.",
    "watch": "Compare a server with the pilot that it came from.",
    "schema": "Print the JSON schema of ensemble files, for editors.",
    "verify": "Prove on your own models that the output follows the target distribution.",
}

# What libraries below would otherwise print between our lines.
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


class LazyGroup(TyperGroup):
    """Imports a command's module once it is called, and prints what a user can mend as one line."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        command = _load(name) if name else None
        raise_again()
        return name, command, rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(rendered(self, ctx))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sentence = "nothing more is kept; the same command goes on from what it kept before, or begins anew"
            raise interrupted(sentence) from None
        except CospecError as error:
            print_error(str(error))
        except BrokenPipeError:
            raise
        except OSError as error:
            print_error(f"{error.filename or 'standard output'}: {error.strerror or error}")
        raise typer.Exit(2)


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    context_settings=SETTINGS,
    # With plain texts, which `help` wraps.
    rich_markup_mode=None,
    epilog="Example: cospec generate 'Question: what is 2 + 3?' --ensemble demo:we --schedule alternate --seed 1",
)


def _load(name: str) -> Any:
    """The command itself, with its module's EXAMPLE below its help; or the module's `app`, if it has one."""
    module = import_module(f"{__name__}.{name}")
    if hasattr(module, "app"):
        app = module.app
    else:
        app = typer.Typer(add_completion=False)
        app.command(name, epilog=f"Example: {module.EXAMPLE}")(getattr(module, name))
    return with_help(typer.main.get_command(app))


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"cospec {import_module('cospec').__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Decode text from several language models at once: exactly from their combined distribution, and fast."""


def _named_only() -> None:
    """Stands in the list of commands; `LazyGroup` calls the command itself."""


for _name, _line in COMMANDS.items():
    app.command(_name, help=_line)(_named_only)


def main() -> None:
    """The console script."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows a question mark.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="cospec")

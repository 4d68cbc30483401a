"""Write the page of the command line, commands.md, from the commands themselves: `python docs/commands.py`."""

from pathlib import Path

import typer
import typer.cli

from cospec.cli import COMMANDS, app

PAGE = Path(__file__).parent / "commands.md"
HEAD = """# The command line

`cospec` and `python -m cospec` are the same program. `cospec COMMAND --help`, or `-h`, shows what stands here.
`cospec --install-completion` makes bash, zsh, fish or PowerShell complete commands and options from the next shell on;
`cospec --show-completion` prints what it would add to the shell's own file.

A command exits with 0 when all went well, 2 for what was asked wrongly or failed, and 130 after Ctrl-C. Where other
statuses have a meaning, the command says so below.

This page is written by `python docs/commands.py`.
"""


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The help texts of all commands, as Markdown."""
    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="cospec")
    parts = [HEAD]
    for name in COMMANDS:
        _, command, _ = group.resolve_command(context, [name])
        parts.append(typer.cli.get_docs_for_click(obj=command, ctx=context, name=name, call_prefix="cospec", indent=1))
    # Lines without spaces at their ends, as everything here has them.
    return "\n".join(line.rstrip() for line in "\n".join(parts).splitlines()).rstrip() + "\n"


if __name__ == "__main__":
    main()

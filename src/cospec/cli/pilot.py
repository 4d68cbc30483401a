"""`cospec pilot`: a study on the user's own prompts that ends in go or no-go; `cospec pilot compare`: two of them."""

from pathlib import Path
from typing import Annotated

import typer

from ..interrupts import importing
from .chat_options import ChatOptions
from .options import LocalOptions
from .output import print_json, print_note
from .pilot_options import PilotOptions
from .spread import spread

EXAMPLE = "cospec pilot --ensemble mine.yaml --prompts prompts.jsonl --criteria criteria.yaml --out pilot"
COMPARE_EXAMPLE = "cospec pilot compare before/results.json pilot/results.json"

app = typer.Typer(add_completion=False, invoke_without_command=True, epilog=f"Example: {EXAMPLE}")


@app.callback()
@spread
def pilot(*, context: typer.Context, options: PilotOptions, chats: ChatOptions, models: LocalOptions) -> None:
    """Run a study on your own prompts that ends in go or no-go.

    Each single member, plain, alternate and auto, paired prompt by prompt: speed, how it comes about, whether quality
    is kept and what is gained over the best member, cost; held against criteria that you set. `cospec pilot compare
    A.json B.json` compares two studies. With --json, or into a pipe, the last line of standard output is a JSON object.

    Exit status: 0 GO or GO UP TO, 3 NO-GO (a required criterion is not met), 4 not decided (one was not shown or not
    measured, and none is not met), 2 what was given cannot be run, 130 interrupted.
    """
    if context.invoked_subcommand is not None:
        return
    if options.write_criteria is not None or options.write_prices is not None:
        _write_templates(options)
        return
    # Help and templates need none of the packages of cospec[pilot].
    with importing():
        from .pilot_run import run_pilot
    run_pilot(options, chats, models)


def _write_templates(options: PilotOptions) -> None:
    with importing():
        from ..study.criteria import write_criteria
        from ..study.prices import write_prices
    if options.write_criteria is not None:
        write_criteria(options.write_criteria)
        print_note(f"wrote criteria to {options.write_criteria}; set them, and give them as --criteria")
    if options.write_prices is not None:
        write_prices(options.write_prices)
        print_note(f"wrote prices to {options.write_prices}; set them, and give them as --prices")


@app.command(epilog=f"Example: {COMPARE_EXAMPLE}")
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.json", help="The results.json of one study.")],
    second: Annotated[Path, typer.Argument(metavar="B.json", help="That of another.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Compare two studies, figure by figure."""
    with importing():
        from ..study.compare import compare as compare_results
        from ..study.results import Results
        from .pilot_tables import comparison_table
        from .tables import print_tables
    comparison = compare_results(Results.load(first), Results.load(second))
    if as_json:
        print_json(comparison.to_dict())
    else:
        print_tables(comparison_table(comparison))

"""`cospec generate`: decode a prompt, or a file of them, and report what it cost."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from ..core.params import SamplingParams
from ..interrupts import importing
from .chat_options import ChatOptions
from .options import SAMPLING, STDIN, Biases, LocalOptions, as_biases
from .spread import option, spread

EXAMPLE = "cospec generate 'Question: what is 2 + 3?' --ensemble demo:we --schedule alternate --seed 1 --max-tokens 60"


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where prompts come from and results go."""

    prompts: Path | None = option(
        None,
        metavar="FILE.jsonl",
        help="Many prompts: a line each, a JSON string, or an object with a prompt (a text or token ids) or the "
        "messages of a chat, and perhaps an id.",
        show_default=False,
    )
    out: Path | None = option(
        None,
        metavar="FILE.jsonl",
        help="With --prompts: append results to this file. The same command goes on where it was stopped.",
        show_default=False,
    )
    as_json: bool = option(
        False,
        "--json",
        help="Print a JSON object for each prompt and nothing else; with --out, whose rows are such, print nothing.",
    )
    plain_text: bool = option(False, "--plain-text", help="No colours and no legend.")


@spread
def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(
            help=f"The prompt; {STDIN} reads it from standard input, as it is: `echo` adds a newline, `printf %s` does "
            "not.",
            show_default=False,
        ),
    ] = None,
    *,
    token_ids: Annotated[
        str | None,
        typer.Option(metavar="ID,ID,...", help="The prompt as token ids, in place of PROMPT.", show_default=False),
    ] = None,
    chats: ChatOptions,
    output: OutputOptions,
    models: LocalOptions,
    params: Annotated[SamplingParams, SAMPLING],
    logit_bias: Biases = None,
) -> None:
    """Decode text from several models at once.

    Every token is a sample of the members' combined distribution r, whatever the schedule.

    On a terminal a token has the colour of its proposer, and is underlined where it replaces a rejected draft.
    """
    params = replace(params, logit_bias=as_biases(logit_bias or []))
    with importing():
        from .generate_run import run_generate
    run_generate(prompt, token_ids, chats, output, models, params)

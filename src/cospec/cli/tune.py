"""`cospec tune`: find the fastest plan on the user's own prompts and machine, and write it down."""

from dataclasses import dataclass
from pathlib import Path

from ..core.params import SamplingParams
from ..interrupts import importing
from .chat_options import ChatOptions
from .options import LocalOptions
from .spread import option, spread

EXAMPLE = "cospec tune --ensemble mine.yaml --proposer demo:drafter --prompts prompts.jsonl"


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """What `auto` measures on, and where the plan is written."""

    prompts: Path | None = option(
        None,
        metavar="FILE.jsonl",
        help='Prompts to learn on: a line each, a JSON string or an object with "prompt" or "messages".',
        show_default="the bundled prompts",
    )
    max_tokens: int = option(128, help="Tokens a text.")
    temperature: float = option(SamplingParams.temperature, help="That texts will be sampled at.")
    out: Path | None = option(
        None,
        metavar="FILE.yaml",
        help="Write the ensemble with its plan here.",
        show_default="the ensemble's own file; a bundled one is left alone",
    )
    as_json: bool = option(False, "--json", help="Print one JSON object instead of the table.")


@spread
def tune(*, options: TuneOptions, chats: ChatOptions, models: LocalOptions) -> None:
    """Find the fastest plan on your own prompts and machine.

    It goes into the ensemble's file. `auto` learns what calls cost and what is accepted until its choice stands; that
    is timed beside plain and printed next to what was predicted: again where the machine was disturbed, which is
    reported. A plan that was measured to be slower than plain is not written; plain is. Under every plan texts follow
    the same distribution.

    Ctrl-C keeps what was measured beside the file, and the same command goes on from there.
    """
    with importing():
        from .tune_run import run_tune
    run_tune(options, chats, models)

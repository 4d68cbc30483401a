"""`cospec chat`: a conversation on the terminal."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from ..core.params import SamplingParams
from ..interrupts import importing
from .options import SAMPLING, Biases, LocalOptions, as_biases
from .spread import option, spread

EXAMPLE = "cospec chat --ensemble demo:we --system 'Answer in one sentence.' --temperature 0.7"

# An answer is one text, shown as it comes; how long it may be is an option of its own, with another default.
_SAMPLING = {name: declared for name, declared in SAMPLING.items() if name not in ("max_tokens", "n", "logprobs")}


@dataclass(frozen=True, kw_only=True)
class ConversationOptions:
    """What a conversation begins with, and where it is kept."""

    system: str | None = option(None, metavar="TEXT", help="The system message.", show_default="none, or FILE's")
    save: Path | None = option(
        None,
        metavar="FILE.jsonl",
        help="Keep the conversation here, a message a line. The same command goes on with it.",
        show_default=False,
    )
    max_tokens: int = option(512, metavar="N", help="The most tokens of an answer.", min=1)
    plain_text: bool = option(False, "--plain-text", help="No colours and no legend.")


@spread
def chat(
    *,
    options: ConversationOptions,
    models: LocalOptions,
    params: Annotated[SamplingParams, _SAMPLING],
    logit_bias: Biases = None,
) -> None:
    """Talk with several models at once, as with one.

    Each member is given the whole conversation in its own chat template. A line is a message; a backslash at its end
    goes on with the next line, and so does everything between two lines of \"\"\". Ctrl-C stops an answer, and at the
    prompt ends, as Ctrl-D does. /help lists what else can be typed: /reset, /system, /stats, /exit.

    Lines may come through a pipe: standard output has the answers and nothing else.
    """
    params = replace(params, max_tokens=options.max_tokens, logit_bias=as_biases(logit_bias or []))
    with importing():
        from .chat_run import run_chat
    run_chat(options, models, params)

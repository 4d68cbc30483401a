"""`cospec chat`: a conversation on the terminal."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from ..core.params import SamplingParams
from ..core.spelling import TokenSpeller
from ..ensemble import Ensemble
from ..errors import InvalidPrompt
from ..rendering import PLAIN_ROLES
from .chats import say_plain_form, without_template
from .conversation import Conversation
from .options import SAMPLING, Biases, LocalOptions, as_biases
from .output import interrupted, on_interrupt, print_note
from .records import Records
from .session import Session
from .sinks import Screen
from .spread import option, spread
from .typed import Lines, PipeLines, TerminalLines, read_typed

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
    conversation = Conversation.load(options.save, options.system)
    with on_interrupt(lambda: "nothing was said"):
        ensemble = models.build()
    session = Session(
        ensemble=ensemble,
        conversation=conversation,
        params=_prepared(ensemble, conversation, params),
        screen=Screen(
            ensemble.names,
            Records(speller=TokenSpeller(ensemble.tokenizer), max_tokens=params.max_tokens),
            is_plain=options.plain_text,
        ),
    )
    # Refused now, and not at each question: members without a tokenizer, a template that takes no system message.
    ensemble.rendered(conversation.asked("Hello"))
    lines = TerminalLines() if sys.stdin.isatty() else PipeLines()
    if lines.is_terminal:
        _greet(models.name, session)
    _talk(session, lines)


def _prepared(ensemble: Ensemble, conversation: Conversation, params: SamplingParams) -> SamplingParams:
    """Where a member has no chat template, the plain form, whose answers end where the next question would begin."""
    names = without_template(ensemble)
    if not names:
        return params
    say_plain_form(names, "the conversation is")
    conversation.plain = True
    return replace(params, stop=(*params.stop, f"\n{PLAIN_ROLES['user']}:"))


def _greet(name: str, session: Session) -> None:
    num = len(session.conversation.turns) // 2
    again = f", going on behind {num} {'answer' if num == 1 else 'answers'}" if num else ""
    print_note(f"{name} ({', '.join(session.ensemble.member_names)}){again}; /help lists what can be typed")
    session.screen.legend()


def _talk(session: Session, lines: Lines) -> None:
    """Message after message, until there are no more.

    Raises typer.Exit: 130 where Ctrl-C came twice, or stopped an answer to what came through a pipe; 2 where such a
    message has no answer.
    """
    while not session.is_over:
        try:
            typed = read_typed(lines)
        except (EOFError, KeyboardInterrupt):
            if lines.is_terminal:
                # The shell goes on in a line of its own.
                print_note("")
            break
        except InvalidPrompt as error:
            session.refuse(error)
            continue
        with on_interrupt(lambda: session.kept):
            session.take(typed)
        if session.is_stopped and not lines.is_terminal:
            raise interrupted(session.kept)
    if session.has_failed and not lines.is_terminal:
        raise typer.Exit(2)

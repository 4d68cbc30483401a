"""What `cospec chat` does; apart from its options, so that its help comes at once."""

import sys
from dataclasses import replace

import typer

from ..core.params import SamplingParams
from ..core.spelling import TokenSpeller
from ..ensemble import Ensemble
from ..errors import InvalidPrompt
from ..rendering import PLAIN_ROLES
from .chat import ConversationOptions
from .chats import say_plain_form, without_template
from .conversation import Conversation
from .cores import built_on_free_cores
from .options import LocalOptions
from .output import interrupted, on_interrupt, print_note
from .records import Records
from .session import Session
from .sinks import Screen
from .typed import Lines, PipeLines, TerminalLines, read_typed


def run_chat(options: ConversationOptions, models: LocalOptions, params: SamplingParams) -> None:
    """Load the models and talk, until there is nothing more to read."""
    conversation = Conversation.load(options.save, options.system)
    with on_interrupt(lambda: "nothing was said"):
        ensemble = built_on_free_cores(models)
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

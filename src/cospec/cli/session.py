"""What happens to each message of `cospec chat`: an answer that is shown and kept, or a command."""

import time
from contextlib import closing
from dataclasses import dataclass, field

from ..core.counts import Counts
from ..core.events import Result
from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..errors import CospecError, UnknownName
from .conversation import Conversation
from .cost import acceptance, calls_a_token, speed
from .output import Interrupt, print_error, print_note
from .sinks import OneText, Screen
from .typed import FENCE, Typed

# Command: what it does.
COMMANDS = {
    "/help": "List what can be typed.",
    "/reset": "Forget the conversation; the system message stays.",
    "/system": 'Show the system message; /system TEXT sets it, from the next answer on, and /system "" removes it.',
    "/stats": "Tokens, tokens/s, calls and acceptance of the last answer, and of all.",
    "/exit": "End. So do Ctrl-D, and Ctrl-C where it stops no answer.",
}
_TYPING = f"A backslash at the end of a line goes on with the next one, and so does all between two lines of {FENCE}."
_NO_SYSTEM = '""'


@dataclass(kw_only=True)
class Session:
    """An ensemble and what is said with it. Answers go to standard output, and all else to standard error.

    has_failed: whether some message has no answer. is_stopped: whether Ctrl-C ended the last answer. is_over: whether
    the end was asked for. answered: the counts of each answer, and its seconds by the clock.
    """

    ensemble: Ensemble
    conversation: Conversation
    params: SamplingParams
    screen: Screen
    has_failed: bool = False
    is_stopped: bool = False
    is_over: bool = False
    answered: list[tuple[Counts, float]] = field(default_factory=list)

    @property
    def kept(self) -> str:
        """What is left of the conversation once the program has ended, in a sentence."""
        path = self.conversation.path
        return f"{path} has the conversation, and the same command goes on with it" if path else "nothing is kept"

    def take(self, typed: Typed) -> None:
        """Do what was typed."""
        try:
            if typed.command is not None:
                self._obey(*typed.command)
            elif typed.text.strip():
                self._answer(typed.text)
        except CospecError as error:
            self.refuse(error)

    def refuse(self, error: CospecError) -> None:
        """Say what could not be done."""
        self.has_failed = True
        print_error(str(error))

    def _answer(self, question: str) -> None:
        self.is_stopped = False
        try:
            result, seconds = self._decode(question)
        except CospecError:
            if self.conversation.turns:
                print_note("your message was taken back; /reset begins a new conversation")
            raise
        self.answered.append((result.counts, seconds))
        self.is_stopped = result.finish_reason == "abort"
        if result.error is not None:
            raise CospecError(result.error)
        if self.is_stopped and not result.text:
            print_note("stopped before the answer began; your message was taken back")
            return
        # In the plain form a space stands before each answer already.
        answer = result.text.strip() if self.conversation.plain else result.text
        self.conversation.add(question, answer, is_cut=self.is_stopped)
        self._comment(result)

    def _decode(self, question: str) -> tuple[Result, float]:
        """The answer, shown as it comes, and its seconds. Ctrl-C stops it. Raises InvalidPrompt where there is none."""
        results, started = [], time.perf_counter()
        with Interrupt() as interrupt:
            chat = self.conversation.asked(question)
            events = self.ensemble.stream([chat], self.params, should_stop=interrupt.is_noted)
            with closing(OneText(self.screen, has_legend=False)) as sink:
                for event in events:
                    sink.take(event)
                    results += [] if event.result is None else [event.result]
        (result,) = results
        return result, time.perf_counter() - started

    def _comment(self, result: Result) -> None:
        """Say what a reader of the answer cannot see."""
        if self.is_stopped:
            print_note("stopped; what was said stays in the conversation")
        elif self.screen.records.is_cut(result):
            print_note("the members' context is full, and cut the answer; /reset begins a new conversation")
        elif result.finish_reason == "length":
            print_note(f"the answer was cut at --max-tokens {self.params.max_tokens}")
        elif not result.text:
            print_note("the answer is empty: its end came at once")

    def _obey(self, name: str, rest: str) -> None:
        """Raises UnknownName, and CospecError where the conversation's file cannot be written."""
        match name:
            case "/help":
                for command, what in COMMANDS.items():
                    print_note(f"{command:<8} {what}")
                print_note(_TYPING)
            case "/reset":
                self.conversation.reset()
                print_note("a new conversation begins")
            case "/system":
                self._system(rest)
            case "/stats":
                self._stats()
            case "/exit":
                self.is_over = True
            case _:
                raise UnknownName(f"command (a message that begins so is put between lines of {FENCE})", name, COMMANDS)

    def _system(self, text: str) -> None:
        if text:
            self.conversation.set_system(None if text == _NO_SYSTEM else text)
        print_note(self.conversation.system or "there is no system message")

    def _stats(self) -> None:
        if not self.answered:
            print_note("nothing was answered yet")
            return
        print_note(f"last answer: {_figures(*self.answered[-1])}")
        counts, seconds = zip(*self.answered, strict=True)
        num = len(counts)
        print_note(f"all {num} answers: {_figures(Counts.total(counts), sum(seconds))}")


def _figures(counts: Counts, seconds: float) -> str:
    return "; ".join(filter(None, (speed(counts, seconds), calls_a_token(counts), acceptance(counts))))

"""Prompts that are chats, on the command line: what is said of models that know no chat."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from ..core.events import Result
from ..ensemble import Ensemble
from ..prompts import Chat
from ..rendering import PLAIN_ROLES
from .output import print_note

# As they come out of files and of the command line.
GivenPrompt = str | list[int] | Chat
AnyPrompt = TypeVar("AnyPrompt", GivenPrompt, str | Chat)


def without_template(ensemble: Ensemble) -> list[str]:
    """The members that have no chat template."""
    return [name for name in ensemble.member_names if name not in ensemble.templated]


def check_chats(ensemble: Ensemble, prompts: Sequence[GivenPrompt]) -> None:
    """Raise InvalidPrompt for a chat that a member has no template for, or whose template refuses it, and say so
    where members are given chats in the plain form."""
    for prompt in prompts:
        if isinstance(prompt, Chat):
            ensemble.rendered(prompt)
    note_plain_form(ensemble, prompts)


def note_plain_form(ensemble: Ensemble, prompts: Iterable[GivenPrompt]) -> None:
    """Say once that members without a chat template are given chats in the plain form, where they are."""
    names = without_template(ensemble)
    if names and any(isinstance(prompt, Chat) and prompt.plain for prompt in prompts):
        say_plain_form(names, "chats are")


def say_plain_form(names: Sequence[str], given: str) -> None:
    """What members without a chat template are given instead. names: theirs. given: what is, in the sentence."""
    question, answer = PLAIN_ROLES["user"], PLAIN_ROLES["assistant"]
    print_note(f"no chat template: {', '.join(names)}; {given} given as `{question}: ...`, `{answer}: ...`")


def note_ended_at_once(ensemble: Ensemble, results: Iterable[Result], prompts: Sequence[GivenPrompt]) -> None:
    """Say once what may be wrong where a model that was made for chats had nothing to add to a text."""
    names = ensemble.templated
    is_found = any(
        isinstance(prompts[result.prompt_index], str)
        and len(result.token_ids) == 1
        and result.token_ids[0] in ensemble.end_ids
        for result in results
    )
    if names and is_found:
        what = "it has a chat template" if len(names) == 1 else "they have chat templates"
        print_note(f"{', '.join(names)} ended at once; {what}: try --chat")

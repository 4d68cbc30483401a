"""What each member or drafter is given for a prompt, in token ids: a text as it is or in the member's own prompt, and a
chat by the chat template of the member's own tokenizer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from .errors import InvalidEnsemble, InvalidPrompt, shown
from .members import Member
from .names import PLACEHOLDER
from .prompts import Chat
from .runner.protocol import Tokenizer

Rendered = TypeVar("Rendered")

# Names of the turns in the plain form of a chat.
PLAIN_ROLES = {"user": "Question", "assistant": "Answer"}
# Of messages that stand for the system.
SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """One member or drafter, as far as its prompt goes.

    name: in messages. tokenizer: its own, or another member's where it has none; None where none has one. common: that
    of the ensemble, which reads texts. All methods raise InvalidPrompt, with the name, for what cannot be rendered.
    """

    name: str
    member: Member
    tokenizer: Tokenizer | None
    common: Tokenizer | None

    @property
    def has_own(self) -> bool:
        """Whether it is not given the same as others."""
        return self.member.prompt is not None or self.member.system is not None

    @property
    def has_template(self) -> bool:
        return bool(getattr(self.tokenizer, "has_chat_template", False))

    def text(self, text: str) -> tuple[int, ...]:
        """A text, by itself."""
        return self._encoded(self.common, text, lambda own: own.encode(text))

    def lane(self, prompt: str | list[int] | Chat, ids: tuple[int, ...] | None) -> tuple[int, ...]:
        """What it is given. ids: those of a prompt that is no chat."""
        if self.member.prompt is not None and not isinstance(self.member.prompt, str):
            return tuple(self.member.prompt)
        if self.member.system is not None and not isinstance(prompt, Chat):
            prompt = self._as_chat(prompt)
        if not isinstance(prompt, Chat):
            return self._in_own(prompt, ids)
        if self.has_template:
            return self._templated(self._own_messages(prompt), prompt.template_kwargs)
        return self._in_own(self._plain(prompt), None)

    def chat_text(self, chat: Chat, *, goes_on: bool = False) -> str:
        """The text of which `lane` has the token ids, for a member with a template. goes_on: whether what follows goes
        on with the last message, in place of a new one."""
        tokenizer: Any = self.tokenizer
        if not self.has_template:
            self._refuse_chat()
        kwargs = {**chat.template_kwargs, "goes_on": goes_on}
        return str(self._by_template(lambda: tokenizer.chat_text(self._own_messages(chat), **kwargs)))

    def _in_own(self, prompt: str | list[int], ids: tuple[int, ...] | None) -> tuple[int, ...]:
        """A text or token ids, in the member's own prompt if it has one."""
        template = self.member.prompt
        if ids is None:
            assert isinstance(prompt, str), "token ids are their own"
            ids = self.text(prompt)
        if not isinstance(template, str):
            return ids
        return self._encoded(self.common, template, lambda own: render(template, prompt, ids, own))

    def check_system(self) -> None:
        """Raises InvalidEnsemble for a system message of its own that its template refuses, or leaves out."""
        system = self.member.system
        if system is None or not self.has_template:
            return
        remedy = f"give it a prompt of its own instead, such as {system + PLACEHOLDER!r:.100}"
        user = {"role": "user", "content": PLACEHOLDER}
        others = [{"role": "system", "content": each} for each in (system, f"{system} Another one.")]
        try:
            own, changed = (self._templated([front, user]) for front in others)
        except InvalidPrompt as error:
            raise InvalidEnsemble(f"{error}; {self.name!r} has a system message of its own: {remedy}") from None
        if own == changed:
            raise InvalidEnsemble(
                f"{self.name!r} has a system message of its own, which its chat template leaves out; {remedy}"
            )

    def _as_chat(self, prompt: str | list[int]) -> Chat:
        """A text as what the user says."""
        if not isinstance(prompt, str):
            raise InvalidPrompt(
                f"{self.name!r} has a system message, and token ids cannot be put behind it; give a text, or messages"
            )
        return Chat(messages=({"role": "user", "content": prompt},))

    def _plain(self, chat: Chat) -> str:
        """The chat as a text, for a model without a template."""
        if not chat.plain:
            self._refuse_chat()
        called = next((i for i, message in enumerate(chat.messages) if message.get("tool_calls")), None)
        if called is not None:
            raise InvalidPrompt(
                f"{self.name!r} has no chat template, and message {called} has tool_calls, which only a template can "
                "write"
            )
        return plain_form(self._with_own_system(chat.messages))

    def _refuse_chat(self) -> NoReturn:
        raise InvalidPrompt(
            f"{self.name!r} has no chat template, and a chat was given; give a text, a model with a template "
            "(chat_template.jinja), or Chat(messages=..., plain=True)"
        )

    def _own_messages(self, chat: Chat) -> Sequence[Mapping[str, Any]]:
        return self._with_own_prompt(self._with_own_system(chat.messages))

    def _with_own_system(self, messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        if self.member.system is None:
            return messages
        others = dropwhile(lambda message: message["role"] in SYSTEM_ROLES, messages)
        return [{"role": "system", "content": self.member.system}, *others]

    def _with_own_prompt(self, messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """The member's prompt in place of the user's last message."""
        template = self.member.prompt
        if not isinstance(template, str):
            return messages
        last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=None)
        if last is None:
            raise InvalidPrompt(
                f"{self.name!r} has a prompt of its own, which stands for the last message of a user, and the chat has "
                "none"
            )
        said = messages[last]
        own = {**said, "content": template.replace(PLACEHOLDER, said.get("content") or "")}
        return [*messages[:last], own, *messages[last + 1 :]]

    def reads(self, name: str) -> bool:
        """Whether its template reads this beside the messages."""
        reads = getattr(self.tokenizer, "template_reads", None)
        return reads is not None and bool(reads(name))

    def _templated(
        self, messages: Sequence[Mapping[str, Any]], kwargs: Mapping[str, Any] = MappingProxyType({})
    ) -> tuple[int, ...]:
        tokenizer: Any = self.tokenizer
        return tuple(self._by_template(lambda: tokenizer.chat(messages, **kwargs)))

    def _by_template(self, render: Callable[[], Rendered]) -> Rendered:
        try:
            return render()
        except ValueError as error:
            raise InvalidPrompt(f"the chat template of {self.name!r} refuses these messages: {error}") from error
        except Exception as error:  # a template is a program of its own
            raise InvalidPrompt(f"the chat template of {self.name!r} raised {type(error).__name__}: {error}") from error

    def _encoded(
        self, tokenizer: Tokenizer | None, text: str, encode: Callable[[Tokenizer], Sequence[int]]
    ) -> tuple[int, ...]:
        """What `encode` makes of a text, for a tokenizer that must be there."""
        assert tokenizer is not None, "the ensemble has looked for one"
        try:
            return tuple(encode(tokenizer))
        except Exception as error:  # a runner of one's own may have any tokenizer
            raise InvalidPrompt(f"the tokenizer raised {type(error).__name__} for {shown(text)}: {error}") from error


def check_template_kwargs(kwargs: Mapping[str, Any], renderers: Sequence[Renderer]) -> None:
    """Raises InvalidPrompt for a name that none of the members' templates reads."""
    for name in kwargs:
        if not any(renderer.reads(name) for renderer in renderers):
            names = ", ".join(repr(renderer.name) for renderer in renderers)
            raise InvalidPrompt(
                f"chat_template_kwargs has {name!r}, which no chat template of these members reads ({names}); leave it "
                "out"
            )


def plain_form(messages: Sequence[Mapping[str, Any]]) -> str:
    """`Question: ...` and `Answer: ...` for user and assistant; other roles' texts stand as they are."""
    lines = [
        f"{PLAIN_ROLES[turn['role']]}: {turn['content']}" if turn["role"] in PLAIN_ROLES else turn["content"]
        for turn in messages
    ]
    return "\n".join([*lines, f"{PLAIN_ROLES['assistant']}:"])


def render(template: str, prompt: str | Sequence[int], ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """A member's own prompt, in which each PLACEHOLDER stands for the user's prompt, as token ids. Special tokens are
    added once, to the whole of it and never to a part.

    prompt: the user's, as given. ids: the same as token ids.
    """
    if PLACEHOLDER not in template:
        return tokenizer.encode(template)
    if isinstance(prompt, str):
        return tokenizer.encode(template.replace(PLACEHOLDER, prompt))
    has_tools: Any = tokenizer
    in_front = list(getattr(has_tools, "in_front", ()))
    encode_part = getattr(has_tools, "encode_part", tokenizer.encode)
    begins = bool(in_front) and [*ids[: len(in_front)]] == in_front
    inner = ids[len(in_front) :] if begins else ids
    before, *others = template.split(PLACEHOLDER)
    # What stands in front of the user's prompt moves in front of the whole.
    rendered = tokenizer.encode(before) if before else in_front if begins else []
    for part in others:
        rendered += [*inner, *(encode_part(part) if part else ())]
    return rendered

"""The options for prompts that are chats."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import InvalidPrompt
from .spread import option

if TYPE_CHECKING:
    from .chats import AnyPrompt


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Whether texts are messages of a chat."""

    chat: bool = option(
        False,
        "--chat",
        help="Texts are messages of a user, put into each model's own chat template. Refused where a model has none.",
    )
    system: str | None = option(
        None,
        metavar="TEXT",
        help="The system message of each chat that has none of its own. Implies --chat.",
        show_default=False,
    )

    @property
    def is_asked(self) -> bool:
        return self.chat or self.system is not None

    def as_asked(self, prompt: "AnyPrompt", where: str) -> "AnyPrompt":
        """The prompt, a chat if chats are asked for. where: its place. Raises InvalidPrompt for token ids in one."""
        from ..prompts import Chat

        if not self.is_asked:
            return prompt
        if isinstance(prompt, list):
            raise InvalidPrompt(
                f"{where}: a chat is made of texts, and token ids are given; give a text, or leave out --chat and "
                "--system"
            )
        user: dict[str, Any] = {"role": "user", "content": prompt}
        given: Chat = prompt if isinstance(prompt, Chat) else Chat(messages=(user,))
        messages = (*self._system_message(given.messages), *given.messages)
        return replace(given, messages=messages, plain=False)

    def _system_message(self, messages: Sequence[Any]) -> list[dict[str, str]]:
        from ..inputs import check_unicode
        from ..rendering import SYSTEM_ROLES

        if self.system is None or any(message["role"] in SYSTEM_ROLES for message in messages):
            return []
        check_unicode(self.system, "--system", InvalidPrompt)
        return [{"role": "system", "content": self.system}]

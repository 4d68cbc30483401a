"""Between clients' texts and token ids: prompts, chats, and single tokens."""

from collections.abc import Mapping
from collections.abc import Sequence as Values
from typing import Any

from ..core.spelling import TokenSpeller
from ..ensemble import Ensemble, Prompt
from ..errors import InvalidPrompt
from ..inputs import check_unicode
from ..prompts import Chat, as_template_kwargs
from .errors import ApiError, about
from .schema import Message, TokenizeRequest


class Codec:
    """The members' tokenizer with its limits. context: most tokens of prompt and answer together; None for no limit."""

    def __init__(self, ensemble: Ensemble, context: int | None) -> None:
        self.context = context
        self._ensemble = ensemble
        self._tokenizer: Any = ensemble.tokenizer
        self.speller = TokenSpeller(ensemble.tokenizer)
        self.drops_space: bool = getattr(ensemble.tokenizer, "drops_space", False)
        self.drops_last_space: bool = getattr(ensemble.tokenizer, "drops_last_space", False)

    def check(self, prompt: Prompt) -> None:
        """Raises ApiError for a text or a chat that no context holds, before time is spent on encoding it, and
        InvalidPrompt for a text that is not Unicode."""
        if isinstance(prompt, str):
            self._check_length(len(prompt))
            check_unicode(prompt, "the prompt", InvalidPrompt)
        elif isinstance(prompt, Chat):
            self._check_length(sum(len(message.get("content") or "") for message in prompt.messages))
            with about("chat_template_kwargs"):
                self._ensemble.check_template_kwargs(prompt)

    def info(self) -> dict[str, Any]:
        """What clients need of the tokenizer that count tokens themselves. Raises ApiError where there is none."""
        info = getattr(self._required(), "info", None)
        return dict(info()) if info else {"vocab_size": self._ensemble.vocab_size}

    def tokens(self, asked: TokenizeRequest) -> list[int]:
        """Token ids of a text, or of a chat as the first member is given it. Raises ApiError or InvalidPrompt."""
        if (asked.messages is None) == (asked.prompt is None):
            raise ApiError(400, "give prompt or messages")
        if asked.chat_template_kwargs and asked.messages is None:
            raise ApiError(400, "a prompt is put into no template; give messages", param="chat_template_kwargs")
        tokenizer = self._required()
        if asked.prompt is None:
            with about("messages"):
                chat = as_chat(asked.messages or (), asked.chat_template_kwargs)
                self.check(chat)
                return list(self._ensemble.rendered(chat)[0])
        self.check(asked.prompt)
        encode = tokenizer.encode if asked.add_special_tokens else getattr(tokenizer, "encode_bare", tokenizer.encode)
        return list(encode(asked.prompt))

    def starts(self, text: str) -> list[int] | None:
        """Where in a prompt each of its tokens begins; None where the tokenizer cannot tell."""
        starts = getattr(self._tokenizer, "starts", None)
        found: list[int] | None = starts(text) if starts else None
        return found

    def text(self, tokens: Values[int]) -> str:
        """The text of at most as many tokens as a context holds. Raises ApiError."""
        if self.context is not None and len(tokens) > self.context:
            raise context_exceeded(f"{len(tokens)} tokens were given", self.context, param="tokens")
        outside = [token for token in tokens if not 0 <= token < self._ensemble.vocab_size]
        if outside:
            raise ApiError(400, f"token id {outside[0]} is outside the vocabulary", param="tokens")
        return str(self._required().decode(tokens))

    def _required(self) -> Any:
        """The tokenizer. Raises ApiError where there is none."""
        if self._tokenizer is None:
            raise ApiError(400, "these members have no tokenizer")
        return self._tokenizer

    def _check_length(self, num_characters: int) -> None:
        """Raises ApiError for a text that is certain to be too long, before time is spent on encoding it."""
        longest = getattr(self._tokenizer, "longest", None)
        if longest and self.context and num_characters > longest * self.context:
            raise context_exceeded(f"the prompt has {num_characters} characters", self.context)


def context_exceeded(given: str, context: int, *, param: str = "prompt") -> ApiError:
    message = f"{given}; the context holds {context} tokens, the answer included"
    return ApiError(400, message, param=param, code="context_length_exceeded")


def as_chat(messages: Values[Message], template_kwargs: Mapping[str, Any] | None = None) -> Chat:
    """A client's chat. Members without a chat template are given the plain form. Raises ApiError or InvalidPrompt."""
    with about("chat_template_kwargs"):
        kwargs = as_template_kwargs(template_kwargs or {})
    return Chat(messages=tuple(message.turn() for message in messages), plain=True, template_kwargs=kwargs)

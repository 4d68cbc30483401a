"""Between clients' texts and token ids: prompts, chats, and single tokens."""

from collections.abc import Sequence as Values
from typing import Any, TypeVar

from ..core.spelling import TokenSpeller
from ..ensemble import Ensemble
from ..errors import InvalidPrompt
from ..inputs import check_unicode
from .errors import ApiError
from .schema import Message, TokenizeRequest

Prompt = str | Values[int]
AnyPrompt = TypeVar("AnyPrompt", str, Prompt)

# Names of the turns in a chat for members that have no chat template.
ROLES = {"user": "Question", "assistant": "Answer"}


class Codec:
    """The members' tokenizer with its limits. context: most tokens of prompt and answer together; None for no limit."""

    def __init__(self, ensemble: Ensemble, context: int | None) -> None:
        self.context = context
        self._vocab_size = ensemble.vocab_size
        self._tokenizer: Any = ensemble.tokenizer
        self.speller = TokenSpeller(ensemble.tokenizer)
        self.drops_space: bool = getattr(ensemble.tokenizer, "drops_space", False)

    def checked(self, prompt: AnyPrompt) -> AnyPrompt:
        """The prompt itself. Raises ApiError for a text that no context holds, InvalidPrompt for one that is not
        Unicode."""
        if isinstance(prompt, str):
            self._check_length(len(prompt))
            check_unicode(prompt, "the prompt", InvalidPrompt)
        return prompt

    def info(self) -> dict[str, Any]:
        """What clients need of the tokenizer that count tokens themselves. Raises ApiError where there is none."""
        info = getattr(self._required(), "info", None)
        return dict(info()) if info else {"vocab_size": self._vocab_size}

    def chat(self, messages: Values[Message]) -> Prompt:
        """The chat as the first member's template renders it, or plainly without one. Raises ApiError."""
        turns = [{"role": message.role, "content": message.text()} for message in messages]
        for turn in turns:
            for text in turn.values():
                check_unicode(text, "a message", InvalidPrompt)
        self._check_length(sum(len(turn["content"]) for turn in turns))
        if not getattr(self._tokenizer, "has_chat_template", False):
            return _plain_chat(turns)
        try:
            ids: list[int] = self._tokenizer.chat(turns)
        except ValueError as error:
            raise ApiError(400, f"the chat template refuses these messages: {error}", param="messages") from error
        return ids

    def tokens(self, asked: TokenizeRequest) -> list[int]:
        """Token ids of a text, or of a chat as it would be fed. Raises ApiError."""
        if asked.messages is not None and asked.prompt is None:
            prompt = self.checked(self.chat(asked.messages))
        elif asked.prompt is not None and asked.messages is None:
            prompt = self.checked(asked.prompt)
        else:
            raise ApiError(400, "give prompt or messages")
        if not isinstance(prompt, str):
            return list(prompt)
        tokenizer = self._required()
        encode = tokenizer.encode if asked.add_special_tokens else getattr(tokenizer, "encode_bare", tokenizer.encode)
        return list(encode(prompt))

    def text(self, tokens: Values[int]) -> str:
        """The text of at most as many tokens as a context holds. Raises ApiError."""
        if self.context is not None and len(tokens) > self.context:
            raise context_exceeded(f"{len(tokens)} tokens were given", self.context, param="tokens")
        outside = [token for token in tokens if not 0 <= token < self._vocab_size]
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


def _plain_chat(turns: Values[dict[str, str]]) -> str:
    """`Question: ...` and `Answer: ...` for user and assistant; other roles' texts stand as they are."""
    lines = [
        f"{ROLES[turn['role']]}: {turn['content']}" if turn["role"] in ROLES else turn["content"] for turn in turns
    ]
    return "\n".join([*lines, f"{ROLES['assistant']}:"])

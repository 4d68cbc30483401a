"""What a user gives to be decoded -> texts, token ids and chats, each checked, and sampling parameters."""

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .core.params import SamplingParams, entries_of
from .errors import InvalidPrompt, InvalidSampling, shown
from .inputs import check_unicode

# What a message is, in errors.
_MESSAGE = 'a message is such as {"role": "user", "content": "..."}'
# What renders a chat sets these itself.
_RENDERERS_OWN = (
    *("messages", "conversation", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"),
    *("tools", "documents", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
    *("return_assistant_tokens_mask", "tokenizer_kwargs", "self"),
)


@dataclass(frozen=True, kw_only=True)
class Chat:
    """Messages that are to be answered. Each member renders them by the chat template of its own tokenizer.

    messages: mappings with `role` and `content`, a text or a list of parts that are texts (`{"type": "text", "text":
    "..."}`), which are joined; a message with `tool_calls` may have none. Their other keys are left to the templates.
    plain: whether members without a template are given the plain form, `Question: ...` and `Answer: ...`.
    template_kwargs: what each member's template is given beside the messages, such as `{"enable_thinking": False}` for
    Qwen3's.

    Raises InvalidPrompt, with the index of the message, for what is none.
    """

    messages: tuple[Mapping[str, Any], ...]
    plain: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.messages, str | Mapping) or not isinstance(self.messages, Sequence):
            raise InvalidPrompt(f"a chat is a list of messages, got {shown(self.messages)}; {_MESSAGE}")
        if not self.messages:
            raise InvalidPrompt(f"the chat is empty; give at least one message: {_MESSAGE}")
        checked = tuple(_as_message(message, index) for index, message in enumerate(self.messages))
        object.__setattr__(self, "messages", checked)
        object.__setattr__(self, "template_kwargs", as_template_kwargs(self.template_kwargs))


# Arrays are numpy's and torch's, of whole numbers.
Prompt: TypeAlias = str | Sequence[int] | np.ndarray[Any, Any] | Tensor | Sequence[Mapping[str, Any]] | Chat
Prompts: TypeAlias = Prompt | Sequence[Prompt]
Params: TypeAlias = SamplingParams | Sequence[SamplingParams] | None

_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_ALLOWED = "a prompt is a text or a list of token ids, or of messages, and many are a list of those"


def as_prompts(prompts: Prompts) -> list[str | list[int] | Chat]:
    """A list of prompts. One text, one list of token ids, an array of them, or one list of messages is a list of one;
    an array of two dimensions has a prompt in each row.

    Raises InvalidPrompt, with the index, for anything else, and for half a surrogate pair in a text.
    """
    if isinstance(prompts, str | Chat):
        return [as_prompt(prompts)]
    listed = _listed(prompts, None)
    if listed and (all(map(_is_id, listed)) or _has_messages(listed)):
        return [as_prompt(listed)]
    return [as_prompt(item, index) for index, item in enumerate(listed)]


def as_prompt(prompt: Prompt, index: int | None = None) -> str | list[int] | Chat:
    """One text, one list of token ids, or one chat. index: which of several it is. Raises as `as_prompts` does."""
    if isinstance(prompt, Chat):
        return prompt
    if isinstance(prompt, str):
        return _as_text(prompt, index)
    listed = _listed(prompt, index)
    if _has_messages(listed):
        try:
            return Chat(messages=tuple(listed))
        except InvalidPrompt as error:
            raise InvalidPrompt(str(error) if index is None else f"prompt {index}: {error}", index) from None
    if not all(map(_is_id, listed)):
        which = "got" if index is None else f"prompt {index} is"
        raise InvalidPrompt(f"{_ALLOWED}; {which} {shown(prompt)}", index)
    return [*map(int, listed)]


def as_template_kwargs(given: Any) -> dict[str, Any]:
    """What templates are given beside the messages. Raises InvalidPrompt for what is no mapping from names to values
    of JSON, and for a name that the renderer sets itself."""
    if not isinstance(given, Mapping) or not all(isinstance(name, str) and name.isidentifier() for name in given):
        raise InvalidPrompt(
            f'chat_template_kwargs is a mapping from names to values, such as {{"enable_thinking": false}}, got '
            f"{shown(given)}"
        )
    if own := [name for name in given if name in _RENDERERS_OWN]:
        raise InvalidPrompt(f"chat_template_kwargs has {own[0]!r}, which whoever renders a chat sets; leave it out")
    try:
        return dict(json.loads(json.dumps(given, allow_nan=False)))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPrompt(f"chat_template_kwargs has values that JSON does not have: {error}") from None


def as_json(prompt: str | list[int] | Chat) -> str | list[int] | list[dict[str, Any]] | dict[str, Any]:
    """The prompt in JSON's types, as files hold it: of a chat its messages, and what templates are given beside."""
    if not isinstance(prompt, Chat):
        return prompt
    messages = [dict(message) for message in prompt.messages]
    kwargs = prompt.template_kwargs
    return {"messages": messages, "chat_template_kwargs": dict(kwargs)} if kwargs else messages


def as_params(params: Params, count: int) -> list[SamplingParams]:
    """The parameters of each of so many prompts. Raises InvalidSampling, or InvalidPrompt for another number of
    them."""
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    listed = list(params) if isinstance(params, list | tuple) else None
    if listed is None or not all(isinstance(each, SamplingParams) for each in listed):
        raise InvalidSampling(
            f"give cospec.SamplingParams(...), or a list with one for each prompt, got {shown(params)}"
        )
    if len(listed) != count:
        raise InvalidPrompt(f"got {len(listed)} sampling parameters for {count} prompts; give one for all, or one each")
    return listed


def _has_messages(listed: Sequence[Any]) -> bool:
    """Whether a list is meant for one chat."""
    return any(isinstance(item, Mapping) for item in listed)


def _as_message(message: Any, index: int) -> dict[str, Any]:
    """The message, with its content as one text. Raises InvalidPrompt."""
    which = f"message {index} of the chat"
    if not isinstance(message, Mapping) or not all(isinstance(key, str) for key in message):
        raise InvalidPrompt(f"{which} is {shown(message)}; {_MESSAGE}, and a chat is a list of nothing else")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        given = f"the role {shown(role)}" if "role" in message else "no role"
        raise InvalidPrompt(f"{which} has {given}; {_MESSAGE}")
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return dict(message)
    text = _text_of(content, which)
    for each in (role, text):
        check_unicode(each, f"{which}, {shown(each)},", InvalidPrompt)
    return {**message, "content": text}


def _text_of(content: Any, which: str) -> str:
    """The content of a message as one text. Raises InvalidPrompt for what is no text and no list of texts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        given = "no content" if content is None else f"the content {shown(content)}"
        raise InvalidPrompt(f"{which} has {given}; give a text, or a list of parts that are texts")
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise InvalidPrompt(
                f'{which} has the part {shown(part)}; only texts can be read: {{"type": "text", "text": "..."}}'
            )
    return "".join(part["text"] for part in content)


def _as_text(text: str, index: int | None) -> str:
    which = "the prompt" if index is None else f"prompt {index}"
    try:
        check_unicode(text, f"{which} {shown(text)}", InvalidPrompt)
    except InvalidPrompt as error:
        raise InvalidPrompt(str(error), index) from None
    return str(text)


def _listed(value: Any, index: int | None) -> list[Any]:
    """What the value lists. Raises InvalidPrompt for what is no list and no array of whole numbers."""
    which = "got" if index is None else f"prompt {index} is"
    if isinstance(value, Tensor | np.ndarray):
        is_whole = value.dtype.kind in "iu" if isinstance(value, np.ndarray) else _is_whole(value)
        if value.ndim not in ((1, 2) if index is None else (1,)) or not is_whole:
            raise InvalidPrompt(
                f"an array of token ids has whole numbers, a prompt a row; {which} {shown(value)}", index
            )
        found: list[Any] = value.tolist()
        return found
    entries = None if isinstance(value, str | bytes | bytearray | Mapping | AbstractSet) else entries_of(value)
    if entries is None:
        raise InvalidPrompt(f"{_ALLOWED}; {which} {shown(value)}", index)
    return [*entries]


def _is_id(item: Any) -> bool:
    """Whether it is a whole number, Python's, numpy's or torch's."""
    if isinstance(item, Tensor):
        return item.ndim == 0 and _is_whole(item)
    return isinstance(item, int | np.integer) and not isinstance(item, bool)


def _is_whole(tensor: Tensor) -> bool:
    return tensor.dtype in _WHOLE

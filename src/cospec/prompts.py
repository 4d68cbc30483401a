"""What a user gives to be decoded -> texts and token ids, what each member is given for it, and sampling parameters."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .core.params import SamplingParams
from .errors import InvalidPrompt, InvalidSampling, shown
from .inputs import check_unicode
from .members import PLACEHOLDER
from .runner.protocol import Tokenizer

# Arrays are numpy's and torch's, of whole numbers.
Prompt: TypeAlias = str | Sequence[int] | np.ndarray[Any, Any] | Tensor
Prompts: TypeAlias = Prompt | Sequence[Prompt]
Params: TypeAlias = SamplingParams | Sequence[SamplingParams] | None

_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_ALLOWED = "a prompt is a text or a list of token ids, and many are a list of those"


def as_prompts(prompts: Prompts) -> list[str | list[int]]:
    """A list of prompts. One text, one list of token ids or an array of them is a list of one; an array of two
    dimensions has a prompt in each row.

    Raises InvalidPrompt, with the index, for anything else, and for half a surrogate pair in a text.
    """
    if isinstance(prompts, str):
        return [_as_text(prompts, None)]
    listed = _listed(prompts, None)
    if listed and all(_is_id(item) for item in listed):
        return [[*map(int, listed)]]
    return [as_prompt(item, index) for index, item in enumerate(listed)]


def as_prompt(prompt: Prompt, index: int | None = None) -> str | list[int]:
    """One text, or one list of token ids. index: which of several it is. Raises as `as_prompts` does."""
    if isinstance(prompt, str):
        return _as_text(prompt, index)
    ids = _listed(prompt, index)
    if not all(map(_is_id, ids)):
        which = "got" if index is None else f"prompt {index} is"
        raise InvalidPrompt(f"{_ALLOWED}; {which} {shown(prompt)}", index)
    return [*map(int, ids)]


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
    is_list = isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray | Mapping | AbstractSet)
    if not is_list:
        raise InvalidPrompt(f"{_ALLOWED}; {which} {shown(value)}", index)
    return list(value)


def _is_id(item: Any) -> bool:
    """Whether it is a whole number, Python's, numpy's or torch's."""
    if isinstance(item, Tensor):
        return item.ndim == 0 and _is_whole(item)
    return isinstance(item, int | np.integer) and not isinstance(item, bool)


def _is_whole(tensor: Tensor) -> bool:
    return tensor.dtype in _WHOLE

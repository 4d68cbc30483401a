"""What each member is given for a user's prompt: special tokens are added once, to a whole prompt, never to a part."""

from collections.abc import Sequence
from typing import Any

from .runner.protocol import Tokenizer

PLACEHOLDER = "{prompt}"


def render(template: str, prompt: str | Sequence[int], ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """A member's own prompt, in which each PLACEHOLDER stands for the user's prompt, as token ids.

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

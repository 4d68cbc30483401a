"""A transformers tokenizer behind the Tokenizer protocol."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from .grammar import CompiledGrammar, GrammarCompiler
from .spelling import Spelling


class HfTokenizer:
    """Text to ids and back.

    The text of ids is the join of their bytes, read as UTF-8; special tokens add nothing, and `special` has their
    spelling. added: entries that were added to the vocabulary. end_ids: tokens that end a sequence. num_entries: how
    many of the vocabulary's entries count, if not all.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, num_entries: int | None = None) -> None:
        self._tokenizer = tokenizer
        end = tokenizer.eos_token_id
        self.end_ids: tuple[int, ...] = () if end is None else (end,)
        self._spelling = Spelling(tokenizer, num_entries)
        self.special: Mapping[int, str] = self._spelling.special
        self.added = self._spelling.added
        self._compilers: dict[tuple[int, tuple[int, ...]], GrammarCompiler] = {}

    def encode(self, text: str) -> list[int]:
        """A whole prompt, with the special tokens that the model wants in front. None is put behind it: an answer goes
        on where the prompt ends."""
        ids = list(self._tokenizer.encode(text))
        behind = list(self.behind)
        return ids[: len(ids) - len(behind)] if behind and ids[-len(behind) :] == behind else ids

    def encode_bare(self, text: str) -> list[int]:
        """A text to ids, without special tokens around it."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def encode_part(self, text: str) -> list[int]:
        """A part of a prompt that stands behind another one: the space that a text may get in front is not added."""
        anchor = self.encode_bare("\n")
        ids = self.encode_bare(f"\n{text}")
        return ids[len(anchor) :] if anchor and ids[: len(anchor)] == anchor else self.encode_bare(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._spelling.text(ids)

    def starts(self, text: str) -> list[int] | None:
        """Where in the text each token of `encode` begins, in characters: also where a tokenizer reads another text, in
        lower case say, or one with special tokens spelled. None for one that is written in Python, which cannot tell.

        What a token leaves out in front, such as a space, is its own; parts of a character stand where that begins.
        """
        if not self._tokenizer.is_fast:
            return None
        spans = self._tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        found, end = [], 0
        for first, last in spans[: len(self.encode(text))]:
            found.append(min(first, end) if last > first else end)
            end = max(end, last)
        return found

    def entries(self) -> Sequence[str]:
        return self._spelling.entries

    def token_bytes(self, token: int) -> bytes:
        """What one token adds to a text, which may be a part of a character; nothing for a special token."""
        return self._spelling.token_bytes(token)

    @property
    def drops_space(self) -> bool:
        """Whether a text loses the space that its first word begins with."""
        return self._spelling.drops_space

    @property
    def drops_last_space(self) -> bool:
        """Whether a text loses the space that its last word ends with."""
        return self._spelling.drops_last_space

    @cached_property
    def in_front(self) -> tuple[int, ...]:
        """The special tokens that `encode` puts in front."""
        return tuple(self._around[0])

    @property
    def behind(self) -> tuple[int, ...]:
        """The special tokens that the tokenizer would put behind a text, and `encode` does not."""
        return tuple(self._around[1])

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts in front of a text, and behind it."""
        whole, bare = list(self._tokenizer.encode("a")), self.encode_bare("a")
        start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        return whole[:start], whole[start + len(bare) :]

    @cached_property
    def longest(self) -> int:
        """The most bytes of a token."""
        return max(len(self.token_bytes(token)) for token in range(len(self.entries())))

    def save(self, folder: Path) -> None:
        """Write its files, as transformers reads them."""
        self._tokenizer.save_pretrained(folder)

    @property
    def has_chat_template(self) -> bool:
        return bool(self.chat_template)

    @property
    def chat_template(self) -> object:
        """The template, or several by name; None where there is none."""
        return getattr(self._tokenizer, "chat_template", None)

    def template_reads(self, name: str) -> bool:
        """Whether the chat template has this name in it, so that a value for it may change what it writes."""
        template = getattr(self._tokenizer, "chat_template", None)
        texts = template.values() if isinstance(template, Mapping) else [template or ""]
        return any(re.search(rf"\b{re.escape(name)}\b", text) for text in texts)

    def chat(self, messages: Sequence[Mapping[str, Any]], **kwargs: Any) -> list[int]:
        """Messages (role, content and whatever else the template reads) as token ids, by the model's chat template.

        kwargs: what the template reads beside the messages. Raises ValueError for roles or an order that the template
        refuses.
        """
        # The template writes the special tokens itself.
        return self.encode_bare(self.chat_text(messages, **kwargs))

    def chat_text(self, messages: Sequence[Mapping[str, Any]], *, goes_on: bool = False, **kwargs: Any) -> str:
        """The same as a text. goes_on: whether what follows goes on with the last message, in place of a new one.

        Raises as `chat` does.
        """
        return self._templated(_in_parts(messages) if self._reads_parts else messages, goes_on=goes_on, **kwargs)

    @cached_property
    def _reads_parts(self) -> bool:
        """Whether the template reads lists of parts alone, as some of vision models do, and leaves a text out."""
        probe = [{"role": "user", "content": "probe"}]
        return not self._holds_probe(probe) and self._holds_probe(_in_parts(probe))

    def _holds_probe(self, messages: Sequence[Mapping[str, Any]]) -> bool:
        try:
            return "probe" in self._templated(messages)
        except Exception:  # a template that was not written for such contents
            return False

    def _templated(self, messages: Sequence[Mapping[str, Any]], *, goes_on: bool = False, **kwargs: Any) -> str:
        from jinja2.exceptions import TemplateError

        turns = [dict(message) for message in messages]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns, add_generation_prompt=not goes_on, continue_final_message=goes_on, tokenize=False, **kwargs
                )
            )
        except TemplateError as error:
            raise ValueError(str(error)) from error

    def info(self) -> dict[str, Any]:
        """The facts that clients need which count tokens themselves."""
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        return {
            "tokenizer_class": type(self._tokenizer).__name__,
            "vocab_size": len(self.entries()),
            "chat_template": getattr(self._tokenizer, "chat_template", None),
            **{name: getattr(self._tokenizer, name, None) for name in names},
        }

    def grammar(
        self, kind: str, source: str | dict[str, Any], vocab_size: int, end_ids: tuple[int, ...]
    ) -> CompiledGrammar:
        """Compile a JSON schema, a regular expression or a grammar (see `grammar.KINDS`), which any of end_ids ends.

        Raises InvalidSampling.
        """
        key = (vocab_size, end_ids)
        if key not in self._compilers:
            self._compilers[key] = GrammarCompiler(self._tokenizer, vocab_size, end_ids)
        return self._compilers[key].compile(kind, source)


def _in_parts(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The messages, each text as a list of one part."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message.get("content"), str)
        else message
        for message in messages
    ]

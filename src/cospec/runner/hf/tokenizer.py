"""A transformers tokenizer behind the Tokenizer protocol."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from .grammar import CompiledGrammar, GrammarCompiler

# How byte-level vocabularies write a byte, and how others write one that has no entry of its own.
_BYTE_OF = {letter: byte for byte, letter in bytes_to_unicode().items()}  # type: ignore[no-untyped-call]
_BYTE = re.compile("<0x[0-9A-F]{2}>")


class HfTokenizer:
    """Text to ids, with the special tokens that the model wants in front, and ids to text without special tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        end = tokenizer.eos_token_id
        self.end_ids: tuple[int, ...] = () if end is None else (end,)
        self._texts: dict[int, str] = {}
        by_id = {index: entry for entry, index in tokenizer.get_vocab().items()}
        self._compilers: dict[tuple[int, tuple[int, ...]], GrammarCompiler] = {}
        self._entries = [by_id.get(index, "") for index in range(max(by_id) + 1)]

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text))

    def encode_bare(self, text: str) -> list[int]:
        """Text to ids without the special tokens in front."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        if len(ids) != 1:
            return self._decode(ids)
        # Single tokens are cached: while a text grows, each is decoded alone and behind the one before it.
        if (text := self._texts.get(ids[0])) is None:
            text = self._texts[ids[0]] = self._decode(ids)
        return text

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def entries(self) -> Sequence[str]:
        return self._entries

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token, which may be a part of a character."""
        entry = self._entries[token]
        if _BYTE.fullmatch(entry):
            return bytes([int(entry[3:5], 16)])
        if all(letter in _BYTE_OF for letter in entry):
            return bytes(_BYTE_OF[letter] for letter in entry)
        return str(self._tokenizer.decode([token])).encode()

    @cached_property
    def longest(self) -> int:
        """The most bytes of a token."""
        return max(len(self.token_bytes(token)) for token in range(len(self._entries)))

    @property
    def has_chat_template(self) -> bool:
        return bool(getattr(self._tokenizer, "chat_template", None))

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Messages (role, content) as token ids, by the model's chat template.

        Raises ValueError for roles or an order that the template refuses.
        """
        from jinja2.exceptions import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(
                [dict(turn) for turn in messages], add_generation_prompt=True, tokenize=False
            )
        except TemplateError as error:
            raise ValueError(str(error)) from error
        # The template writes the special tokens itself.
        return self.encode_bare(str(text))

    def info(self) -> dict[str, Any]:
        """The facts that clients need which count tokens themselves."""
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        return {
            "tokenizer_class": type(self._tokenizer).__name__,
            "vocab_size": len(self._entries),
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

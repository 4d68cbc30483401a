"""A transformers tokenizer behind the Tokenizer protocol."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from .grammar import Grammar, Grammars

# How byte-level vocabularies write bytes, and how others write those that they have no entry for.
_BYTE_OF = {letter: byte for byte, letter in bytes_to_unicode().items()}  # type: ignore[no-untyped-call]
_BYTE = re.compile("<0x[0-9A-F]{2}>")


class HfTokenizer:
    """Text to ids, with the special tokens its model wants in front, and back, without any."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        end = tokenizer.eos_token_id
        self.end_ids: tuple[int, ...] = () if end is None else (end,)
        self._texts: dict[int, str] = {}
        by_id = {index: entry for entry, index in tokenizer.get_vocab().items()}
        self._grammars: dict[tuple[int, tuple[int, ...]], Grammars] = {}
        self._entries = [by_id.get(index, "") for index in range(max(by_id) + 1)]

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text))

    def encode_bare(self, text: str) -> list[int]:
        """Without the special tokens in front."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        if len(ids) != 1:
            return self._decode(ids)
        # As a text grows, each token is decoded alone and behind the one before it.
        if (text := self._texts.get(ids[0])) is None:
            text = self._texts[ids[0]] = self._decode(ids)
        return text

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def entries(self) -> Sequence[str]:
        return self._entries

    def token_bytes(self, token: int) -> bytes:
        """What one token stands for; of a character it may be a part."""
        entry = self._entries[token]
        if _BYTE.fullmatch(entry):
            return bytes([int(entry[3:5], 16)])
        if all(letter in _BYTE_OF for letter in entry):
            return bytes(_BYTE_OF[letter] for letter in entry)
        return str(self._tokenizer.decode([token])).encode()

    @cached_property
    def longest(self) -> int:
        """The most characters that one token stands for."""
        return max(len(self.token_bytes(token)) for token in range(len(self._entries)))

    @property
    def has_chat_template(self) -> bool:
        return bool(getattr(self._tokenizer, "chat_template", None))

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Messages (role, content) as the prompt that the model was trained to answer. Raises ValueError for roles or
        an order that its template refuses."""
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
        """What clients that count tokens themselves ask for."""
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        return {
            "tokenizer_class": type(self._tokenizer).__name__,
            "vocab_size": len(self._entries),
            "chat_template": getattr(self._tokenizer, "chat_template", None),
            **{name: getattr(self._tokenizer, name, None) for name in names},
        }

    def grammar(self, kind: str, source: str | dict[str, Any], vocab_size: int, end_ids: tuple[int, ...]) -> Grammar:
        """A JSON schema, a regular expression or a grammar, to keep texts to, which any of end_ids ends. Raises
        InvalidSampling."""
        key = (vocab_size, end_ids)
        if key not in self._grammars:
            self._grammars[key] = Grammars(self._tokenizer, vocab_size, end_ids)
        return self._grammars[key].read(kind, source)

"""What each entry of a vocabulary adds to a text, in bytes, by the tokenizer's own rules of decoding."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from .written import AskedTokens

# How byte-level vocabularies write a byte, and how others write one that has no entry of its own.
_BYTE_OF = {letter: byte for byte, letter in bytes_to_unicode().items()}  # type: ignore[no-untyped-call]
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


class Spelling:
    """The bytes of each token.

    A token that is a whole number of characters is spelled as it is decoded behind another one, since what stands in
    front of a text may be decoded otherwise; parts of characters are spelled as the tokenizer's decoder reads them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, num_entries: int | None = None) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self.entries: Sequence[str] = _entries(tokenizer, added)[:num_entries]
        # Special tokens, which add nothing to a text, by their spelling; an entry that is missing adds nothing either.
        named = {*tokenizer.all_special_ids}
        self.special: dict[int, str] = {id: each.content for id, each in added.items() if each.special or id in named}
        self.added = frozenset(added)
        self._literal = self.added - self.special.keys()
        decoder = _decoder(tokenizer)
        self._steps = frozenset(_types(decoder))
        # What entries end with that end a word, and stands for a space unless the text ends there.
        self._word_end = decoder["suffix"] if decoder and decoder["type"] == "BPEDecoder" else ""
        self._asked = None if decoder else self._written_in_python()
        self._bytes: dict[int, bytes] = {}

    def token_bytes(self, token: int) -> bytes:
        """What the token adds to a text: nothing for a special one, or for an id that stands for no entry."""
        if (raw := self._bytes.get(token)) is None:
            raw = self._bytes[token] = self._read(token)
        return raw

    @property
    def drops_last_space(self) -> bool:
        """Whether the space that a text's last word ends with is lost in decoding."""
        return bool(self._word_end) or (self._asked is not None and self._asked.ends_words)

    @cached_property
    def drops_space(self) -> bool:
        """Whether the space that a text's first word begins with is lost in decoding."""
        spaced = (token for token in range(len(self.entries)) if self.token_bytes(token)[:1] == b" ")
        first = next((token for token in spaced if self.token_bytes(token).decode("utf-8", "replace").strip()), None)
        return first is not None and not self._decoded(first).startswith(" ")

    def text(self, ids: Sequence[int]) -> str:
        """The text of these tokens, the first of which stand in front."""
        raw = b"".join(map(self.token_bytes, ids))
        raw = raw.removesuffix(b" ") if self.drops_last_space else raw
        return (raw.removeprefix(b" ") if self.drops_space else raw).decode("utf-8", "replace")

    def _read(self, token: int) -> bytes:
        if token in self.special or not 0 <= token < len(self.entries) or not self.entries[token]:
            return b""
        entry = self.entries[token]
        if self._word_end:
            return entry.replace(self._word_end, " ").encode()
        if "ByteLevel" in self._steps:
            raw = _unmapped(entry)
            # An added entry is a text, which may have letters that stand for bytes elsewhere in the vocabulary.
            return entry.encode() if raw is None or (token in self._literal and not _is_utf8(raw)) else raw
        byte = _BYTE.fullmatch(entry)
        if byte and token not in self._literal and ("ByteFallback" in self._steps or not self._steps):
            return bytes([int(byte[1], 16)])
        if self._asked is not None:
            return self._asked(token)
        before = self._decoded(token)
        return self._decoded(token, token).removeprefix(before).encode()

    def _written_in_python(self) -> AskedTokens | None:
        if getattr(self._tokenizer, "backend_tokenizer", None) is not None:
            return None
        ordinary = [id for id, entry in enumerate(self.entries) if entry and id not in self.added]
        encode = partial(self._tokenizer.encode, add_special_tokens=False)
        return AskedTokens(lambda ids: self._decoded(*ids), encode, ordinary)

    def _decoded(self, *ids: int) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _entries(tokenizer: PreTrainedTokenizerBase, added: Mapping[int, Any]) -> list[str]:
    """The entries in the order of ids, empty where there is none.

    A mapping from entries to ids has one id for entries that read alike, and added entries as they were before the
    tokenizer normalised them: of both the tokenizer is asked by id.
    """
    by_id = {index: entry for entry, index in tokenizer.get_vocab().items()}
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        by_id |= {id: backend.id_to_token(id) or "" for id in range(max(by_id) + 1) if id not in by_id or id in added}
    return [by_id.get(index, "") for index in range(max(by_id) + 1)]


def _unmapped(entry: str) -> bytes | None:
    """The bytes that a byte-level entry's letters stand for; None where a letter stands for none."""
    known = all(letter in _BYTE_OF for letter in entry)
    return bytes(_BYTE_OF[letter] for letter in entry) if known else None


def _is_utf8(raw: bytes) -> bool:
    return "\ufffd" not in raw.decode("utf-8", "replace")


def _decoder(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """The decoder of tokenizer.json; None for a tokenizer that is written in Python."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    decoder: dict[str, Any] | None = json.loads(backend.to_str())["decoder"] if backend is not None else None
    return decoder


def _types(decoder: dict[str, Any] | None) -> Iterator[str]:
    if decoder is not None:
        yield decoder["type"]
        for inner in decoder.get("decoders", ()):
            yield from _types(inner)

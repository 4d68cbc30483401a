"""What tokens of a tokenizer that is written in Python add to a text: it tells by its texts alone, and is asked."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

Decode = Callable[[Sequence[int]], str]
Encode = Callable[[str], Sequence[int]]

# Of a large vocabulary only some entries are asked whether a word ends with them.
_MOST_ASKED = 2048


class AskedTokens:
    """The bytes of each token, by the texts of a few.

    decode: ids to text, special tokens left out. encode: a text to ids, none put around it. ordinary: ids that are no
    special tokens.
    """

    def __init__(self, decode: Decode, encode: Encode, ordinary: Sequence[int]) -> None:
        self._decode, self._encode, self._ordinary = decode, encode, ordinary

    def __call__(self, token: int) -> bytes:
        if token in self._single_bytes:
            return bytes([self._single_bytes[token]])
        if self.ends_words:
            return self._decode([token, self._word]).removesuffix(self._decode([self._word])).encode()
        return self._decode([token, token]).removeprefix(self._decode([token])).encode()

    @cached_property
    def ends_words(self) -> bool:
        """Whether a space follows the entries that end a word, and none the others, as where those are `he@@`."""
        asked = self._ordinary[:: max(1, len(self._ordinary) // _MOST_ASKED)]
        return self._word >= 0 and not all(map(self._stands_unchanged, asked))

    @cached_property
    def _word(self) -> int:
        """A token that is a word and has a space between itself and another one; -1 where none has."""
        words = (token for token in self._ordinary if self._decode([token]).isalnum())
        return next((word for word in words if self._decode([word, word]).startswith(f"{self._decode([word])} ")), -1)

    def _stands_unchanged(self, token: int) -> bool:
        """Whether the token's text is the same where another one follows; what is no whole letter cannot tell."""
        alone = self._decode([token])
        return "\ufffd" in alone or self._decode([token, token]).startswith(alone)

    @cached_property
    def _single_bytes(self) -> dict[int, int]:
        """Tokens that stand for one byte, which have no text of their own: those of letters of several bytes, where
        such a letter has as many tokens as bytes, and these tokens have its text together alone."""
        found: dict[int, int] = {}
        for letter in _letters_of_all_bytes():
            raw, ids = letter.encode(), self._encode(letter)
            if len(ids) == len(raw) and self._decode(ids) == letter and self._decode(ids[:1]) in ("", "\ufffd"):
                found |= zip(ids, raw, strict=True)
        return found


def _letters_of_all_bytes() -> Iterator[str]:
    """Letters of two, three and four bytes with each byte that stands in UTF-8, all but those of ASCII."""
    yield from map(chr, range(0x80, 0x800, 0x40))
    yield from map(chr, range(0xC0, 0x100))
    yield from (chr(0x1000 * lead or 0x800) for lead in range(16))
    yield from (chr(0x40000 * lead or 0x10000) for lead in range(5))

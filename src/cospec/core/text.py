"""Tokens to text as they come: characters across token borders, and stop strings across both.

The text of a prompt and its answer is the join of their tokens' bytes, read as UTF-8; special tokens add none.
"""

import codecs
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ..runner.protocol import Tokenizer

_REPLACEMENT = "\ufffd"
# The most tokens that the beginning of a character can have: UTF-8 takes four bytes at most.
_MOST_BEGUN = 3


class TextDecoder(Protocol):
    """The characters of a growing token list, each given out once."""

    def push(self, token: int) -> str:
        """Append a token: the characters that are certain by now and were not before."""
        ...

    def close(self) -> str:
        """No more tokens: the rest, a cut-off character as the replacement character."""
        ...


class ByteDecoder:
    """Decodes tokens whose bytes are known: a character is certain with its last byte.

    token_bytes: what a token adds to a text. prompt: what stands before; a character that begins there is completed,
    and belongs to the answer. drops_space: whether a text loses the space that its first word begins with.
    drops_last_space: whether it loses the one that its last word ends with, so that this belongs to what comes next.
    """

    def __init__(
        self,
        token_bytes: Callable[[int], bytes],
        prompt: Sequence[int] = (),
        *,
        drops_space: bool = False,
        drops_last_space: bool = False,
    ) -> None:
        self._token_bytes = token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        tail = b""
        for token in reversed(prompt):
            tail = token_bytes(token) + tail
            if len(tail) >= _MOST_BEGUN + 1:
                break
        self._decode(tail)
        self._drops_space = drops_space and not tail
        self._drops_last_space = drops_last_space
        self._held = b" " if drops_last_space and tail.endswith(b" ") else b""

    def push(self, token: int) -> str:
        raw = self._token_bytes(token)
        if raw and self._drops_space:
            raw, self._drops_space = raw.removeprefix(b" "), False
        if raw and self._drops_last_space:
            raw = self._held + raw
            self._held = b" " if raw.endswith(b" ") else b""
            raw = raw.removesuffix(b" ")
        return self._decode(raw)

    def close(self) -> str:
        return self._utf8.decode(b"", final=True)

    def _decode(self, raw: bytes) -> str:
        text = self._utf8.decode(raw)
        begun = self._utf8.getstate()[0]
        # Python waits for the last byte of half a surrogate pair, which no character of UTF-8 begins with.
        is_surrogate = len(begun) == 2 and begun[0] == 0xED and begun[1] >= 0xA0
        return text + self.close() if is_surrogate else text


def text_decoder(tokenizer: Tokenizer, prompt: Sequence[int]) -> TextDecoder:
    """What decodes an answer behind this prompt: by the bytes of tokens, where the tokenizer can tell them."""
    token_bytes = getattr(tokenizer, "token_bytes", None)
    if token_bytes is None:
        return WindowDecoder(tokenizer.decode, prompt)
    spaces = {name: getattr(tokenizer, name, False) for name in ("drops_space", "drops_last_space")}
    return ByteDecoder(token_bytes, prompt, **spaces)


class WindowDecoder:
    """Decodes tokens of which only joint texts are known, a few at a time: what a token adds to those before it.

    decode: ids to text. prompt: what stands before. A replacement character at the end may be the beginning of another
    one, and waits for at most `_MOST_BEGUN` tokens.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int] = ()) -> None:
        self._decode = decode
        # Tokens whose text was given out: that of the next may depend on them (a leading space, say).
        self._before = next(([token] for token in reversed(prompt) if decode([token])), [])
        self._waiting: list[int] = []

    def push(self, token: int) -> str:
        self._waiting.append(token)
        added = self._added(self._waiting)
        if not added:
            # Without a text before it a token may still change what the next ones add; no more than these few do.
            del self._waiting[: len(self._waiting) if self._before else -_MOST_BEGUN]
            return ""
        if not added.endswith(_REPLACEMENT):
            self._before, self._waiting = self._waiting, []
            return added
        if len(self._waiting) <= _MOST_BEGUN:
            return ""
        certain = self._waiting[:-_MOST_BEGUN]
        added = self._added(certain)
        self._before, self._waiting = certain, self._waiting[-_MOST_BEGUN:]
        return added

    def close(self) -> str:
        added = self._added(self._waiting)
        self._waiting = []
        return added

    def _added(self, tokens: Sequence[int]) -> str:
        return self._decode([*self._before, *tokens])[len(self._decode(self._before)) :]


class TextStream:
    """The text of a growing token list, up to a stop string.

    `push` appends a token; `text` is what is certain so far. A stop string ends the stream where it begins, however
    many tokens it spans; what might still become one is held back from `text`.

    decoder: made for what stands before the tokens; or a function from ids to text. stops: stop strings. special: how
    special tokens, which add nothing to the text, are spelled; a stop string finds them by it.
    """

    def __init__(
        self,
        decoder: TextDecoder | Callable[[Sequence[int]], str],
        stops: Sequence[str] = (),
        special: Mapping[int, str] | None = None,
    ) -> None:
        self._decoder: TextDecoder = WindowDecoder(decoder) if callable(decoder) else decoder
        special = special or {}
        self._text = ""
        self._stops = [_Stop(string) for string in stops]
        # Only these need to see special tokens: in the text itself they stand nowhere.
        self._spelled_stops = [_Stop(each) for each in stops if any(name in each for name in special.values() if name)]
        self._special = special if self._spelled_stops else {}
        self.is_stopped = False
        self._is_closed = False

    @property
    def text(self) -> str:
        if self.is_stopped or self._is_closed:
            return self._text
        return self._text[: min((stop.begun_at for stop in self._all_stops if stop.num_begun), default=len(self._text))]

    def push(self, token: int, *, may_stop: bool = True) -> bool:
        """Append a token; True once a stop string is complete, which is not looked for unless it `may_stop`."""
        if not self.is_stopped:
            self._append(self._decoder.push(token), may_stop, self._special.get(token, ""))
        return self.is_stopped

    def close(self) -> None:
        """No more tokens: release what was held back, a cut-off character as the replacement character."""
        if not self.is_stopped and not self._is_closed:
            self._append(self._decoder.close(), may_stop=True)
        self._is_closed = True

    @property
    def _all_stops(self) -> "list[_Stop]":
        return self._stops + self._spelled_stops

    def _append(self, piece: str, may_stop: bool, spelled: str = "") -> None:
        """Append a piece of text, or the spelling of a special token, which the text itself does not have."""
        if not piece and not spelled:
            return
        at = len(self._text)
        found = [stop.read(piece, at) for stop in self._all_stops]
        found += [stop.read(spelled, at, is_special=True) for stop in self._spelled_stops]
        self._text += piece
        starts = [start for start in found if start is not None]
        if starts and may_stop:
            self._text = self._text[: min(starts)]
            self.is_stopped = True


class _Stop:
    """A stop string, looked for as the text comes: a step or two a character, however long it is.

    num_begun: how much of it, less than all, the text ends with. begun_at: where in the text that begins.
    (Knuth, Morris & Pratt 1977.)
    """

    def __init__(self, string: str) -> None:
        self._string = string
        self.num_begun = 0
        # For each beginning of the string: how long the longest shorter one is that it ends with.
        self._shorter = [0]
        length = 0
        for letter in string[1:]:
            length = self._next(length, letter)
            self._shorter.append(length)
        # Where in the text each of the last characters stands; those of special tokens stand where the next one does.
        self._places: deque[int] = deque(maxlen=len(string))

    @property
    def begun_at(self) -> int:
        return self._places[-self.num_begun]

    def read(self, piece: str, at: int, *, is_special: bool = False) -> int | None:
        """Append a piece to a text of `at` characters: where the string first begins, if it becomes complete in it."""
        found = None
        for offset, letter in enumerate(piece):
            self._places.append(at if is_special else at + offset)
            self.num_begun = self._next(self.num_begun, letter)
            if self.num_begun == len(self._string):
                found = self._places[0] if found is None else found
                self.num_begun = self._shorter[-1]
        return found

    def _next(self, length: int, letter: str) -> int:
        """The length of the longest prefix of the string that a text ends with, after this letter, if it ended with one
        of `length` before."""
        while length and self._string[length] != letter:
            length = self._shorter[length - 1]
        return length + (self._string[length] == letter)

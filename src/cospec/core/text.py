"""Tokens to text as they come: characters across token borders, and stop strings across both."""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"


class TextStream:
    """The text of a growing token list.

    `push` decodes what a token adds; `text` is what is certain so far. A stop string ends the stream where
    it begins, however many tokens it spans; what might still become one is held back from `text`.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = [_Stop(string) for string in stops]
        self._ids: list[int] = []
        # Ids before `_read` are in `_decoded`; decoding starts at `_prefix`, since a token's text may
        # depend on the one before it (a leading space, say).
        self._prefix = self._read = 0
        self._decoded = ""
        self.is_stopped = False
        self._is_closed = False

    @property
    def text(self) -> str:
        if self.is_stopped or self._is_closed:
            return self._decoded
        return self._decoded[: len(self._decoded) - max((stop.num_begun for stop in self._stops), default=0)]

    def push(self, token: int, *, may_stop: bool = True) -> bool:
        """Append a token; True once a stop string is complete, which is not looked for unless it `may_stop`."""
        self._ids.append(token)
        before = self._decode(self._ids[self._prefix : self._read])
        now = self._decode(self._ids[self._prefix :])
        if now.endswith(_INCOMPLETE) or len(now) <= len(before):
            return False
        self._append(now[len(before) :], may_stop)
        self._prefix, self._read = self._read, len(self._ids)
        return self.is_stopped

    def close(self) -> None:
        """No more tokens: release what was held back, a cut-off character as the replacement character."""
        if not self.is_stopped and not self._is_closed:
            before = self._decode(self._ids[self._prefix : self._read])
            self._append(self._decode(self._ids[self._prefix :])[len(before) :], may_stop=True)
        self._is_closed = True

    def _append(self, piece: str, may_stop: bool) -> None:
        found = [stop.read(piece, len(self._decoded)) for stop in self._stops]
        self._decoded += piece
        starts = [start for start in found if start is not None]
        if starts and may_stop:
            self._decoded = self._decoded[: min(starts)]
            self.is_stopped = True


class _Stop:
    """A stop string, looked for as the text comes: a step or two a character, however long it is.

    num_begun: how much of it, less than all, the text ends with. (Knuth, Morris & Pratt 1977.)
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

    def read(self, piece: str, at: int) -> int | None:
        """Append `piece` to a text of `at` characters: where the string first begins, if it becomes complete within the
        piece."""
        found = None
        for end, letter in enumerate(piece, start=at + 1):
            self.num_begun = self._next(self.num_begun, letter)
            if self.num_begun == len(self._string):
                found = end - len(self._string) if found is None else found
                self.num_begun = self._shorter[-1]
        return found

    def _next(self, length: int, letter: str) -> int:
        """The length of the longest prefix of the string that a text ends with, after this letter, if it ended with one
        of `length` before."""
        while length and self._string[length] != letter:
            length = self._shorter[length - 1]
        return length + (self._string[length] == letter)

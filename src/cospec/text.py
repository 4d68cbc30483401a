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
        self._stops = tuple(stops)
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
        return self._decoded[: len(self._decoded) - self._num_held_back()]

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
        if not self.is_stopped:
            before = self._decode(self._ids[self._prefix : self._read])
            self._append(self._decode(self._ids[self._prefix :])[len(before) :], may_stop=True)
        self._is_closed = True

    def _append(self, piece: str, may_stop: bool) -> None:
        longest = max((len(stop) for stop in self._stops), default=0)
        searched_from = max(0, len(self._decoded) - longest + 1)
        self._decoded += piece
        if not may_stop:
            return
        found = [self._decoded.find(stop, searched_from) for stop in self._stops]
        starts = [start for start in found if start >= 0]
        if starts:
            self._decoded = self._decoded[: min(starts)]
            self.is_stopped = True

    def _num_held_back(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(self._decoded)), longest, -1):
                if self._decoded.endswith(stop[:length]):
                    longest = length
                    break
        return longest

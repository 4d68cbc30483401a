"""Ctrl-C while decoding: finish the round and show what there is."""

import signal
from types import FrameType
from typing import Self


class Interrupt:
    """Notes the first Ctrl-C for the decoding loop to ask about; a second one ends the program as ever."""

    def __init__(self) -> None:
        self._is_noted = False

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def is_noted(self) -> bool:
        return self._is_noted

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._is_noted = True
        signal.signal(signal.SIGINT, self._previous)

"""How far a distillation is, as whoever waits for it sees it, and how it is stopped."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias

# Given the name of a phase and the number of its parts: a bar while that is open, moved by what is called in it.
Bar: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


class Stopped(Exception):
    """Ctrl-C was noted: what is kept is whole, and the same command goes on from it."""


@dataclass(frozen=True, kw_only=True)
class Phases:
    """bar: shows how far each phase is. should_stop: asked between its parts."""

    bar: Bar
    should_stop: Callable[[], bool]

"""What the engine tells, and asks, those who want to know what calls cost and what rows say."""

from collections.abc import Sequence as Values
from dataclasses import dataclass
from typing import Protocol

from .sheet import Sequence, Settled


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a round did to the sequences of one observer, of `num_live` in all.

    num_feeds: lanes whose turn it was, of all sequences. seconds: of the whole round, of which so many were spent in
    runners. has_prefill: whether a prompt was fed.
    """

    sequences: Values[Sequence]
    num_live: int
    num_settled: int
    num_feeds: int
    seconds: float
    seconds_in_runners: float
    has_prefill: bool


class Observer(Protocol):
    """Who is told; lanes by index."""

    def on_call(self, lane: int, num_tokens: int, seconds: float) -> None:
        """A runner took so long for a call of so many tokens, those of all its sequences together."""
        ...

    def on_round(self, done: Round) -> None:
        """A round is over."""
        ...

    def on_settled(self, sequence: Sequence, settled: Values[Settled]) -> None:
        """The last positions were settled so, and their rows are still there."""
        ...

    def listens_to(self, sequence: Sequence) -> Values[int]:
        """Asked where members are fed: drafters that are to be fed beside them, for what their rows say alone."""
        ...

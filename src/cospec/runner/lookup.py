"""A drafter without a model: it proposes what followed the same tokens earlier, as a Runner like any other."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .protocol import Feed, Slot, Tokenizer
from .suffixes import SuffixIndex

# The longest draft that is looked up at a time.
MOST_DRAFTED = 16
# Finished texts are remembered in two heaps of so many tokens; when the newer is full, the older goes.
MOST_REMEMBERED = 2**17
# What was fed last may be drafts that are taken back: it is learned from once so many tokens stand behind it. What is
# fed until a first row is asked for is a prompt, and stays, but for drafts of others where there are some.
LAG = 24


class LookupSlot(Slot):
    """A text with what can be found in it, and the draft that is being handed out. was_asked: for a first proposal."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.index = SuffixIndex()
        self.num_indexed = 0
        self.was_asked = False
        self.drafted: list[int] = []

    @property
    def length(self) -> int:  # type: ignore[override]
        return len(self.tokens)


class LookupRunner:
    """Rows with all of the probability on the token looked up; where there is none, a row that allows no token.

    remember: whether texts that are finished are looked up too. A text then depends on what was decoded before it,
    though its distribution does not.
    """

    context: int | None = None
    tokenizer: Tokenizer | None = None
    end_ids: tuple[int, ...] = ()
    dtype = torch.float32

    def __init__(self, vocab_size: int, *, remember: bool = False) -> None:
        self.vocab_size = vocab_size
        # Finished texts, the newer heap first.
        self._past = [SuffixIndex()] if remember else []
        self._num_newer = 0

    def open(self) -> LookupSlot:
        return LookupSlot()

    def feed(self, batch: Sequence[Feed]) -> list[Tensor]:
        return [self._fed(_own(feed.slot), feed) for feed in batch]

    def trim(self, slot: Slot, length: int) -> None:
        own = _own(slot)
        del own.tokens[length:]
        own.drafted.clear()
        if own.num_indexed > length:
            own.index, own.num_indexed = SuffixIndex(), 0

    def close(self, slot: Slot) -> None:
        own = _own(slot)
        if self._past:
            self._remember(own.tokens)
        own.tokens.clear()

    def _remember(self, text: list[int]) -> None:
        if self._num_newer >= MOST_REMEMBERED:
            self._past, self._num_newer = [SuffixIndex(), self._past[0]], 0
        self._past[0].add_text(text)
        self._num_newer += len(text)

    def _fed(self, slot: LookupSlot, feed: Feed) -> Tensor:
        is_draft = list(feed.tokens) == slot.drafted[:1]
        slot.tokens.extend(feed.tokens)
        _learn(slot, LAG if slot.was_asked else 0)
        slot.was_asked |= feed.rows > 0
        rows = torch.full((feed.rows, self.vocab_size), -math.inf)
        if feed.rows and (token := self._next(slot, is_draft)) is not None:
            rows[-1, token] = 0.0
        return rows

    def _next(self, slot: LookupSlot, is_draft: bool) -> int | None:
        """The token to propose: of the draft being handed out as far as that goes, else of a new one."""
        slot.drafted = slot.drafted[1:] if is_draft else self._draft(slot)
        return slot.drafted[0] if slot.drafted else None

    def _draft(self, slot: LookupSlot) -> list[int]:
        found = (index.draft(slot.tokens, MOST_DRAFTED) for index in (slot.index, *self._past))
        return [guess.token for guess in next(filter(None, found), [])]


def _learn(slot: LookupSlot, lag: int) -> None:
    end = len(slot.tokens) - lag
    if end > slot.num_indexed:
        slot.index.extend(slot.tokens[slot.num_indexed : end])
        slot.num_indexed = end


def _own(slot: Slot) -> LookupSlot:
    assert isinstance(slot, LookupSlot), "a slot of another runner"
    return slot

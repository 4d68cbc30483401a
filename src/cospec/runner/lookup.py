"""Lookup drafting as a Runner: a drafter without a model, which proposes what followed the same tokens earlier."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..errors import InvalidEnsemble
from .options import LoadOptions
from .protocol import Feed, Slot, Tokenizer
from .suffixes import SuffixIndex

# The longest draft that is looked up at a time.
MOST_DRAFTED = 16
# Finished sequences are remembered in two indices of this many tokens; when the newer is full, the older is dropped.
MOST_REMEMBERED = 2**17
# Where nobody says which tokens are settled, the last ones fed may be drafts that are rolled back, so that a token is
# indexed once this many stand behind it. What is fed until the first row is wanted is a prompt, and indexed at once.
LAG = 24


def load(rest: str, options: LoadOptions, *, remember: bool = False) -> "LookupRunner":
    """A drafter whose vocabulary is set to the members' later: `lookup`, or `lookup+past` if it is to `remember`."""
    if rest:
        raise InvalidEnsemble(f"a lookup has no model to load, got {rest!r}; give lookup or lookup+past, and no colon")
    return LookupRunner(0, remember=remember)


load_remembering = partial(load, remember=True)


class LookupSlot(Slot):
    """A sequence, its index of contexts, and the draft that is being proposed, at once or token by token.

    num_indexed: tokens that the index holds. was_asked: whether a row has been wanted, which ends the prompt.
    """

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
    """Rows that put all probability on the token looked up: logit 0 there and -inf elsewhere; -inf everywhere where
    nothing is found.

    vocab_size: 0 until it is set to the members'. remember: whether finished sequences are looked up too. The text of a
    sequence then depends on what was decoded before it, but its distribution does not.
    """

    context: int | None = None
    tokenizer: Tokenizer | None = None
    end_ids: tuple[int, ...] = ()
    dtype = torch.float32

    def __init__(self, vocab_size: int, *, remember: bool = False) -> None:
        self.vocab_size = vocab_size
        # Finished sequences: the index that is filled, then the full one before it.
        self._past = [SuffixIndex()] if remember else []
        self._num_newer = 0

    def open(self) -> LookupSlot:
        return LookupSlot()

    def feed(self, batch: Sequence[Feed]) -> list[Tensor]:
        return [self._feed(_own(feed.slot), feed) for feed in batch]

    def propose_run(self, slot: Slot, most: int) -> list[int]:
        """What was looked up as the slot was last fed for a row."""
        return _own(slot).drafted[:most]

    def trim(self, slot: Slot, length: int) -> None:
        own = _own(slot)
        del own.tokens[length:]
        own.drafted.clear()
        if own.num_indexed > length:
            own.index, own.num_indexed = SuffixIndex(), 0

    def close(self, slot: Slot) -> None:
        own = _own(slot)
        if self._past:
            if self._num_newer >= MOST_REMEMBERED:
                self._past, self._num_newer = [SuffixIndex(), self._past[0]], 0
            self._past[0].add_sequence(own.tokens)
            self._num_newer += len(own.tokens)
        own.tokens.clear()

    def _feed(self, slot: LookupSlot, feed: Feed) -> Tensor:
        follows_draft = list(feed.tokens) == slot.drafted[:1]
        slot.tokens.extend(feed.tokens)
        settled = feed.settled
        if settled is None:
            settled = len(slot.tokens) - (LAG if slot.was_asked else 0)
        slot.index.extend(slot.tokens[slot.num_indexed : settled])
        slot.num_indexed = max(slot.num_indexed, min(settled, len(slot.tokens)))
        slot.was_asked |= feed.rows > 0
        rows = torch.full((feed.rows, self.vocab_size), -math.inf)
        if feed.rows:
            # As long as the draft's own tokens are fed back, it is proposed to its end; else another is looked up.
            slot.drafted = slot.drafted[1:] if follows_draft else self._draft(slot)
            if slot.drafted:
                rows[-1, slot.drafted[0]] = 0.0
        return rows

    def _draft(self, slot: LookupSlot) -> list[int]:
        """What the first index proposes that knows a continuation."""
        drafts = (index.draft(slot.tokens, MOST_DRAFTED) for index in (slot.index, *self._past))
        return [guess.token for guess in next(filter(None, drafts), [])]


def _own(slot: Slot) -> LookupSlot:
    assert isinstance(slot, LookupSlot), "a slot of another runner"
    return slot

"""Models given by a function, whose laws can be enumerated. Shipped, since users test with them too."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import MemberFailed
from .protocol import Feed, Slot, Tokenizer

# Rows cached by prefix: tests of laws evaluate the same few prefixes hundreds of thousands of times.
NUM_CACHED_ROWS = 4096


class FunctionSlot(Slot):
    """The tokens fed so far."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    @property
    def length(self) -> int:  # type: ignore[override]
        return len(self.tokens)

    def copy(self) -> "FunctionSlot":
        """A slot that holds the same."""
        slot = FunctionSlot()
        slot.tokens = list(self.tokens)
        return slot


class FunctionRunner:
    """A model whose logits after `prefix` are `fn(prefix)`.

    fn: a tuple of token ids, the whole sequence so far, -> vocab_size numbers (list, array or tensor); -inf forbids a
    token. It must be a pure function: its results are cached. end_ids: tokens that end a sequence. Logits are float64.
    `feed` raises MemberFailed if fn returns another size.
    """

    def __init__(
        self,
        vocab_size: int,
        fn: Callable[[tuple[int, ...]], object],
        *,
        end_ids: Sequence[int] = (),
        context: int | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.vocab_size = vocab_size
        self.context = context
        self.tokenizer = tokenizer
        self.dtype = torch.float64
        self.end_ids = tuple(end_ids)
        self._fn = fn
        self._row = lru_cache(NUM_CACHED_ROWS)(self._computed)

    def open(self) -> FunctionSlot:
        return FunctionSlot()

    def feed(self, batch: Sequence[Feed]) -> list[Tensor]:
        sequences = [(*_tokens(feed.slot), *feed.tokens) for feed in batch]
        rows = [self._rows(sequence, feed.rows) for sequence, feed in zip(sequences, batch, strict=True)]
        for feed in batch:
            _tokens(feed.slot).extend(feed.tokens)
        return rows

    def trim(self, slot: Slot, length: int) -> None:
        del _tokens(slot)[length:]

    def close(self, slot: Slot) -> None:
        _tokens(slot).clear()

    def _rows(self, sequence: tuple[int, ...], count: int) -> Tensor:
        """Logits after each of the last `count` tokens, [count, vocab]: a copy, so that nobody can change the cache."""
        if count == 0:
            return torch.empty((0, self.vocab_size), dtype=self.dtype)
        return torch.cat([self._row(sequence[:end]) for end in range(len(sequence) - count + 1, len(sequence) + 1)])

    def _computed(self, prefix: tuple[int, ...]) -> Tensor:
        """Logits after `prefix`, [1, vocab]."""
        row = torch.as_tensor(self._fn(prefix), dtype=self.dtype)
        if row.shape != (self.vocab_size,):
            shape = list(row.shape)
            raise MemberFailed(f"the function gave logits of shape {shape} for {prefix}; want [{self.vocab_size}]")
        return row[None]


class TableRunner(FunctionRunner):
    """An n-gram table: logits depend on the last `order` tokens, drawn once from `seed`."""

    def __init__(
        self, vocab_size: int, *, order: int = 2, seed: int = 0, sharpness: float = 1.0, end_ids: Sequence[int] = ()
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        # One more entry than the vocabulary stands for "before the sequence".
        shape = (vocab_size + 1,) * order + (vocab_size,)
        self.table = torch.randn(shape, generator=generator, dtype=torch.float64) * sharpness

        def look_up(prefix: tuple[int, ...]) -> Tensor:
            context = (vocab_size,) * order + prefix
            return self.table[context[len(context) - order :]]

        super().__init__(vocab_size, look_up, end_ids=end_ids)


def _tokens(slot: Slot) -> list[int]:
    assert isinstance(slot, FunctionSlot), "a slot of another runner"
    return slot.tokens

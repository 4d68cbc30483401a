"""A drafter that knows fewer entries than the members: it never proposes the others, and reads them as one it knows."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .protocol import Feed, ReadingRunner, Runner, Slot, reads_states, told_acceptance

# What stands for an entry that the drafter does not know, in what it reads. Its proposals are verified all the same.
UNKNOWN = 0


class PaddedRunner:
    """A runner with rows widened to `vocab_size` columns, of probability zero, which may be fed all of these tokens."""

    def __init__(self, runner: Runner, vocab_size: int) -> None:
        self._runner = runner
        self.vocab_size = vocab_size
        self.context, self.tokenizer, self.end_ids = runner.context, runner.tokenizer, runner.end_ids
        self.dtype: torch.dtype = runner.dtype
        self.acceptance = told_acceptance(runner)

    def open(self) -> Slot:
        return self._runner.open()

    def feed(self, batch: Sequence[Feed]) -> list[Tensor]:
        most = self._runner.vocab_size
        known = [replace(each, tokens=[token if token < most else UNKNOWN for token in each.tokens]) for each in batch]
        width = (0, self.vocab_size - most)
        return [torch.nn.functional.pad(rows, width, value=-math.inf) for rows in self._runner.feed(known)]

    def trim(self, slot: Slot, length: int) -> None:
        self._runner.trim(slot, length)

    def close(self, slot: Slot) -> None:
        self._runner.close(slot)


class PaddedReader(PaddedRunner):
    """The same of a drafter that reads members' hidden states."""

    def __init__(self, runner: ReadingRunner, vocab_size: int) -> None:
        super().__init__(runner, vocab_size)
        self.num_sources, self.state_size, self.attach = runner.num_sources, runner.state_size, runner.attach


def padded(runner: Runner, vocab_size: int) -> Runner:
    """The runner itself where it knows as many entries."""
    if runner.vocab_size >= vocab_size:
        return runner
    return PaddedReader(runner, vocab_size) if reads_states(runner) else PaddedRunner(runner, vocab_size)

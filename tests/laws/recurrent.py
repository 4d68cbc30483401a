"""A model whose rows come out of a recurrent state: it cannot be trimmed, only restored.

The state spells the text, so that a state that stands anywhere else gives the rows of another text.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor

from cospec.runner import Feed
from cospec.runner.hf.batch import RaggedBatch
from cospec.runner.hf.rollback import StateLedger
from cospec.runner.hf.states import RecurrentState
from cospec.runner.toy import FunctionRunner, FunctionSlot

LONGEST = 12
CPU = torch.device("cpu")


class Spelling:
    """A state update that appends tokens. inputs: [1, width], a token's id plus one; 0 leaves the state as it is."""

    shape = (LONGEST,)

    def __init__(self, tokens: Sequence[int]) -> None:
        self.reads = torch.tensor([tokens], dtype=torch.float32) + 1
        self.inputs = [self.reads]

    def run(self, inputs: Sequence[Tensor], reads: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        states = []
        for token in inputs[0].T:
            appended = torch.cat([state[:, 1:], token[:, None]], dim=1)
            state = torch.where(token[:, None] > 0, appended, state)
            states.append(state)
        return torch.stack(states, dim=1), state


class RecurrentSlot(FunctionSlot):
    """A state, and the tokens that it is fed again where it was rolled back behind its snapshot."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.ledger = StateLedger(block=1, capacity=capacity)
        self.state = RecurrentState(Spelling([0]))

    def copy(self) -> "RecurrentSlot":
        return copy.deepcopy(self)


class RecurrentRunner(FunctionRunner):
    """As FunctionRunner, of what the slots' states spell."""

    # So little that snapshots move within what is fed.
    capacity = 2

    def open(self) -> RecurrentSlot:
        return RecurrentSlot(self.capacity)

    def feed(self, batch: Sequence[Feed]) -> list[Tensor]:
        return [self._fed(feed) for feed in batch]

    def _fed(self, feed: Feed) -> Tensor:
        slot = feed.slot
        assert isinstance(slot, RecurrentSlot)
        assert feed.settled is not None, "the engine says what is settled"
        start = slot.ledger.start(0, slot.length)
        tokens = [*slot.tokens[start:], *feed.tokens]
        plan = slot.ledger.plan(
            RaggedBatch(slots=[0], starts=[start], counts=[len(tokens)], device=CPU), [feed.settled]
        )
        spelled = slot.state.run(plan, Spelling(tokens))[0].int()
        slot.ledger.commit(plan)
        slot.tokens.extend(feed.tokens)
        rows = [self._row(tuple(token - 1 for token in text if token)) for text in spelled.tolist()]
        return torch.cat([torch.empty((0, self.vocab_size), dtype=self.dtype), *rows[len(rows) - feed.rows :]])


class ForgetfulRunner(RecurrentRunner):
    """Members that draft are rolled back behind their snapshots, and are fed their texts again."""

    capacity = 1


@contextmanager
def watched_losses() -> Iterator[list[bool]]:
    """Of each slot that a pass within it begins with: whether what it holds is to be fed again."""
    start, is_lost = StateLedger.start, list[bool]()

    def spy(self: StateLedger, slot: int, length: int) -> int:
        first = start(self, slot, length)
        is_lost.append(first < length)
        return first

    with mock.patch.object(StateLedger, "start", spy):
        yield is_lost

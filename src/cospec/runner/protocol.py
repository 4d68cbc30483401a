"""The Runner protocol: all that the engine knows of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor


class Slot:
    """One sequence's state in a runner, such as its part of a cache. Runners subclass it. length: tokens fed so far."""

    length: int = 0


@dataclass(frozen=True)
class Feed:
    """Tokens to append to a slot, and for how many of them, counted from the last, rows are wanted.

    settled: how many of the slot's tokens, counted from its first and these included, are certain to stay; None where
    that is not known. A hint: a runner whose state costs something to roll back keeps one from there.
    """

    slot: Slot
    tokens: Sequence[int]
    rows: int
    settled: int | None = None


class Tokenizer(Protocol):
    """Text to token ids and back.

    entries: the vocabulary in the order of ids, by which tokenizers are compared. end_ids: tokens that end a
    sequence. encode: of a whole prompt, with the special tokens that stand in front.

    A tokenizer may also have, and is then exact and faster: `token_bytes(token) -> bytes`, what a token adds to a text
    (none for a special token); `drops_space`, whether a text loses the space that its first word begins with, and
    `drops_last_space`, whether it loses the one that its last word ends with;
    `special`, id -> spelling of special tokens; `added`, the entries that were added to the vocabulary; `in_front`, the
    special tokens that `encode` puts in front; `starts(text)`, where in it each token of `encode` begins, or None;
    `encode_bare(text)`, `encode_part(text)`, a text by itself, and one
    behind another; and `has_chat_template` with `chat(messages, **kwargs)`, the token ids of a chat
    that is to be answered, and `template_reads(name)`, whether its template reads such a one of kwargs.
    """

    end_ids: tuple[int, ...]

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def entries(self) -> Sequence[str]: ...


class Runner(Protocol):
    """A model that keeps a cache for each open slot.

    vocab_size: columns of a row, cut to the tokenizer's size; 0 for a drafter without a vocabulary of its own, which is
    set to the members' as they are loaded. context: the most tokens a slot holds, None for no limit. tokenizer: None if
    prompts can only be token ids. end_ids: tokens that end a sequence. dtype: what the model computes in, which bounds
    how equal two rows of one distribution are; a `tie_gap` says it where the type does not: by how much two
    log-probabilities may differ whose order rounding turns.

    A runner may also have `served_by`, the runner whose forward passes compute its rows, as of a base with an adapter:
    slots of all that name one runner are fed to that one, in one batch. And `vocabulary`, the ids of the tokens that a
    drafter proposes among; the others have probability zero in its rows. And `numerics`, which is "invariant" where a
    row is a function of the tokens before it alone, to the last bit, whatever else is fed with it. And `slot_bytes`,
    what an open slot takes of the memory of its `device` whatever its length, such as a recurrent state. And
    `acceptance`, the mean 1 - TV of a drafter's proposals where it was distilled, with which `auto` begins. And it may
    be a `CopyingRunner`, so that sequences of one prompt read it once. A drafter may have
    `propose_run(slot, most) -> Sequence[int]`: the tokens that it proposes behind what the slot holds, `most` at most,
    each with probability one given those before it, as its rows would say one by one. It changes nothing. And a drafter
    that reads what members made of the text is a `ReadingRunner`, and a member that hands that out a `StatesRunner`.
    """

    vocab_size: int
    context: int | None
    tokenizer: Tokenizer | None
    end_ids: tuple[int, ...]
    dtype: torch.dtype

    def open(self) -> Slot:
        """An empty slot."""
        ...

    def feed(self, batch: Sequence[Feed]) -> list[Tensor]:
        """Append each feed's tokens to its slot; one [rows, vocab_size] of logits each, float32 or wider.

        Row j is the distribution of the token after the j-th of the last `rows` tokens. A feed has
        at least one token, and a slot at most one feed. If it raises, no slot has changed. The rows are read only:
        a change in place may be refused.
        """
        ...

    def trim(self, slot: Slot, length: int) -> None:
        """Forget everything after the first `length` tokens. Copies nothing."""
        ...

    def close(self, slot: Slot) -> None:
        """Give the slot back."""
        ...


class KeptStates:
    """A member's hidden states behind the last tokens of a slot, which its output embedding reads.

    stretches: those of several passes, each [tokens, hidden] with the token of the slot that the first stands behind.
    They are replaced as a whole, and never changed in place: who reads them in another thread has those from before a
    pass or those from behind it. MOST: tokens that states are kept for, beside those of the last pass: members that are
    fed in turn have some in common.
    """

    MOST = 16

    def __init__(self) -> None:
        self.stretches: tuple[tuple[int, Tensor], ...] = ()

    def add(self, start: int, states: Tensor) -> None:
        """A pass made these, [tokens, hidden], the first behind the token `start` of the slot."""
        kept: list[tuple[int, Tensor]] = []
        num_left = self.MOST
        for stretch in reversed(self.stretches):
            if num_left <= 0:
                break
            kept.insert(0, stretch)
            num_left -= stretch[1].shape[0]
        self.stretches = (*kept, (start, states))

    def trim(self, length: int) -> None:
        """Forget what stands behind tokens from `length` on."""
        if any(start + states.shape[0] > length for start, states in self.stretches):
            self.stretches = tuple(
                (start, states[: length - start]) for start, states in self.stretches if start < length
            )


@dataclass(frozen=True)
class Source:
    """A member's slot as a drafter reads it. lead: tokens that the member's prompt has more than the drafter's."""

    runner: Runner
    slot: Slot
    lead: int


@runtime_checkable
class StatesRunner(Runner, Protocol):
    """A member that hands out hidden states, for drafters that read them. state_size: numbers of each."""

    @property
    def state_size(self) -> int: ...

    def keep_states(self, slot: Slot) -> KeptStates:
        """From now on keep what each pass makes behind the last tokens of this slot that it is fed, and forget what a
        trim takes back."""
        ...


@runtime_checkable
class ReadingRunner(Runner, Protocol):
    """A drafter that reads members' hidden states. num_sources: of how many members; state_size: numbers of each."""

    num_sources: int
    state_size: int

    def attach(self, slot: Slot, sources: Sequence[Source]) -> None:
        """The members' slots of the sequence that an empty slot was opened for, in the members' order."""
        ...


@runtime_checkable
class CopyingRunner(Runner, Protocol):
    """A runner in which a slot can take over what another one has read. copies: whether it can for this model."""

    @property
    def copies(self) -> bool: ...

    def copy(self, source: Slot, slot: Slot, length: int) -> None:
        """Let an empty slot hold the first `length` tokens of another one. If it raises, no slot has changed."""
        ...


def can_copy(runner: Runner) -> TypeGuard[CopyingRunner]:
    """Whether a slot of the runner can take over what another one has read."""
    return isinstance(runner, CopyingRunner) and runner.copies


def hands_out_states(runner: Runner) -> TypeGuard[StatesRunner]:
    """Whether a member can show drafters its hidden states."""
    return isinstance(runner, StatesRunner) and runner.state_size > 0


def reads_states(runner: Runner) -> TypeGuard[ReadingRunner]:
    """Whether a drafter reads members' hidden states."""
    return isinstance(runner, ReadingRunner)


def is_invariant(runner: Runner) -> bool:
    """Whether a row is a function of the tokens before it alone, to the last bit."""
    return getattr(runner, "numerics", None) == "invariant"


def placed_on(runner: Runner) -> str:
    """The device that its rows are computed on, such as cpu or cuda:0; cpu of a runner that does not say."""
    return str(getattr(server_of(runner), "device", "cpu"))


def told_acceptance(runner: Runner) -> float | None:
    """The acceptance that a drafter had where it was made, where it says so."""
    told: float | None = getattr(runner, "acceptance", None)
    return told


def proposes_runs(runner: Runner) -> bool:
    """Whether a drafter has several tokens to propose at once."""
    return hasattr(runner, "propose_run")


def server_of(runner: Runner) -> Runner:
    """The runner whose forward passes compute the rows of this one."""
    server: Runner = getattr(runner, "served_by", runner)
    return server

"""HeadRunner: a drafting head as a Runner. Its rows follow from members' hidden states and the tokens behind them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ...errors import ModelNotFound, UnsupportedModel
from ..parts import AGAIN, DRAFTER, HEAD_WEIGHTS, HeadParts
from ..protocol import Feed, KeptStates, Slot, Source, hands_out_states
from .checkpoint import called, check_safetensors
from .cut import output_rows
from .head import DraftHead, HeadShape
from .packing import prepack
from .runner import HfRunner

# The most tokens from members' hidden states to a row: each is a step, and so far on drafts are seldom right.
MOST_STEPS = KeptStates.MOST
# The tensor of a head's file that may be left out where it is the base's own.
OUTPUT = "head.weight"
ADVICE = "give the ensemble that it was trained for, and its base"


@dataclass(frozen=True, eq=False)
class Anchor:
    """Members' hidden states behind one token. at: which, counted from the drafter's first. stretches, rows: of each
    member, the pass's states that it stands among, and where."""

    at: int
    stretches: tuple[Tensor, ...]
    rows: tuple[int, ...]

    def is_same(self, other: "Anchor") -> bool:
        """Whether these are the very same states: behind a token that was replaced there are others."""
        return self.at == other.at and all(a is b for a, b in zip(self.stretches, other.stretches, strict=True))

    def hidden(self, device: str) -> Tensor:
        """[1, members, hidden], in float32."""
        states = [own[row] for own, row in zip(self.stretches, self.rows, strict=True)]
        return torch.stack([each.to(device, torch.float32) for each in states])[None]


@dataclass(eq=False)
class Chain:
    """The cell's states [1, hidden] from an anchor on: the first was begun there, each other stands behind one more
    token."""

    anchor: Anchor
    states: list[Tensor] = field(default_factory=list)


class HeadSlot(Slot):
    """A sequence's tokens, the members' kept states with the lead of each, and the last row's chain."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.sources: tuple[tuple[KeptStates, int], ...] = ()
        self.chain: Chain | None = None

    @property
    def length(self) -> int:  # type: ignore[override]
        return len(self.tokens)

    def anchor(self, length: int) -> Anchor | None:
        """The last states that all members have behind a token before the last of `length`, from which the row behind
        that follows; None where there are none that are near enough."""
        stretches = [(kept.stretches, lead) for kept, lead in self.sources]
        for at in range(length - 2, max(-1, length - 2 - MOST_STEPS), -1):
            found = [_find(own, at + lead) for own, lead in stretches]
            places = [place for place in found if place is not None]
            if len(places) == len(found):
                states, rows = zip(*places, strict=True)
                return Anchor(at, states, rows)
        return None

    def cut(self, length: int) -> None:
        """Forget what stands behind the first `length` tokens."""
        del self.tokens[length:]
        if self.chain is not None:
            del self.chain.states[max(0, length - self.chain.anchor.at) :]


class HeadRunner:
    """A drafter that reads the hidden states of `num_sources` members, of `state_size` numbers each.

    head: the cell, in float32. base: the model whose embedding it reads; that alone is kept of it. vocabulary: the
    tokens of its columns. A row is -inf for all others, and for every token where members keep no states to begin with:
    then it declines. A slot that was attached to no members begins each row with zeros.
    """

    context: int | None = None
    acceptance: float | None = None
    dtype = torch.float32

    def __init__(self, head: DraftHead, base: HfRunner, vocabulary: Sequence[int]) -> None:
        self._head = head.float().eval().requires_grad_(False)
        prepack(self._head, fewest_weights=1)
        self._embed: nn.Module = base.model.get_input_embeddings()
        self.device = base.device
        self.vocab_size, self.tokenizer, self.end_ids = base.vocab_size, base.tokenizer, base.end_ids
        self.vocabulary = tuple(vocabulary)
        self._columns = torch.tensor(vocabulary, device=self.device)
        self.num_sources, self.state_size = head.shape.members, head.shape.hidden
        zeros = torch.zeros(1, self.state_size, device=self.device)
        self._zeros = Anchor(-1, (zeros,) * self.num_sources, (0,) * self.num_sources)

    @property
    def modules(self) -> tuple[nn.Module, nn.Module]:
        """The cell, and the embedding that it shares with its base."""
        return self._head, self._embed

    def open(self) -> HeadSlot:
        return HeadSlot()

    def attach(self, slot: Slot, sources: Sequence[Source]) -> None:
        kept = [each.runner.keep_states(each.slot) for each in sources if hands_out_states(each.runner)]
        assert len(kept) == self.num_sources, "as many members as the head reads, that hand out hidden states"
        _own(slot).sources = tuple(zip(kept, (each.lead for each in sources), strict=True))

    @property
    def copies(self) -> bool:
        return True

    def copy(self, source: Slot, slot: Slot, length: int) -> None:
        assert slot.length == 0, "what was read is copied to an empty slot"
        _own(slot).tokens[:] = _own(source).tokens[:length]

    def trim(self, slot: Slot, length: int) -> None:
        _own(slot).cut(length)

    def close(self, slot: Slot) -> None:
        own = _own(slot)
        own.cut(0)
        own.sources, own.chain = (), None

    @torch.inference_mode()
    def feed(self, batch: Sequence[Feed]) -> list[Tensor]:
        lengths = [feed.slot.length for feed in batch]
        for feed in batch:
            _own(feed.slot).tokens.extend(feed.tokens)
        try:
            rows = self._rows([wanted for feed in batch for wanted in self._wanted(feed)])
        except BaseException:
            for feed, length in zip(batch, lengths, strict=True):
                _own(feed.slot).cut(length)
            raise
        return [*torch.split(rows, [feed.rows for feed in batch])]

    def _wanted(self, feed: Feed) -> Iterator["_Wanted | None"]:
        """The rows that a feed wants; None for one that nothing is known of."""
        slot = _own(feed.slot)
        for length in range(slot.length - feed.rows + 1, slot.length + 1):
            anchor = slot.anchor(length) if slot.sources else replace(self._zeros, at=length - 2)
            if anchor is None:
                yield None
                continue
            if slot.chain is None or not slot.chain.anchor.is_same(anchor):
                slot.chain = Chain(anchor)
            yield _Wanted(slot.chain, slot.tokens, length - 1 - anchor.at)

    def _rows(self, wanted: Sequence["_Wanted | None"]) -> Tensor:
        """[wanted, vocab_size]."""
        rows = torch.full((len(wanted), self.vocab_size), -math.inf, device=self.device)
        known = [i for i, each in enumerate(wanted) if each is not None]
        found = [each for each in wanted if each is not None]
        if not found:
            return rows
        self._begin([*dict.fromkeys(each.chain for each in found)])
        while behind := {each.chain: each for each in found if len(each.chain.states) <= each.num_steps}:
            self._step([*behind.values()])
        logits = self._head.logits(torch.cat([each.chain.states[each.num_steps] for each in found]))
        if len(known) == len(wanted):
            rows[:, self._columns] = logits
        else:
            rows[torch.tensor(known, device=self.device)[:, None], self._columns] = logits
        return rows

    def _begin(self, chains: Sequence[Chain]) -> None:
        new = [chain for chain in chains if not chain.states]
        if new:
            states = self._head.begin(torch.cat([chain.anchor.hidden(self.device) for chain in new]))
            for chain, state in zip(new, torch.split(states, 1), strict=True):
                chain.states.append(state)

    def _step(self, wanted: Sequence["_Wanted"]) -> None:
        """One more token of each chain."""
        tokens = [each.tokens[each.chain.anchor.at + len(each.chain.states)] for each in wanted]
        embedded = self._embed(torch.tensor(tokens, device=self.device)).float()
        states = self._head.advance(torch.cat([each.chain.states[-1] for each in wanted]), embedded)
        for each, state in zip(wanted, torch.split(states, 1), strict=True):
            each.chain.states.append(state)


class _Wanted(NamedTuple):
    """A row: it follows from a chain's state behind so many steps of the sequence's tokens."""

    chain: Chain
    tokens: Sequence[int]
    num_steps: int


def _own(slot: Slot) -> HeadSlot:
    assert isinstance(slot, HeadSlot), "a slot of another runner"
    return slot


def read_head(model: str, parts: HeadParts, base: HfRunner) -> HeadRunner:
    """The runner of a drafting head. base: the model whose embedding it reads, and by whose output rows it proposes
    where its file has none of its own.

    Raises UnsupportedModel for one that does not fit its base, or whose weights are not those of its description.
    """
    most, where = max(parts.vocabulary), called(model, parts.folder)
    if parts.hidden != base.state_size or most >= base.vocab_size:
        raise UnsupportedModel(
            f"{model!r} is a drafting head on a model with hidden states of {parts.hidden} numbers and more than "
            f"{most} tokens, and its base has {base.state_size} and {base.vocab_size}; {ADVICE}"
        )
    file = parts.folder / HEAD_WEIGHTS
    if not file.is_file():
        raise ModelNotFound(f"{where} is a drafting head, and has no {HEAD_WEIGHTS}; {AGAIN}")
    check_safetensors(model, file)
    tensors = load_file(file)
    if OUTPUT not in tensors:
        # In two bytes each, which are read for every draft. Members verify what such rounding proposes.
        tensors[OUTPUT] = output_rows(base.model, parts.vocabulary).bfloat16()
    shape = HeadShape(members=parts.members, hidden=parts.hidden, width=parts.width, vocabulary=len(parts.vocabulary))
    with torch.device("meta"):
        head = DraftHead(shape)
    wanted, given = _shapes(head.state_dict()), _shapes(tensors)
    if wrong := next((name for name in {**wanted, **given} if wanted.get(name) != given.get(name)), None):
        raise UnsupportedModel(
            f"{where}: {wrong!r} is {given.get(wrong, 'missing')} in {HEAD_WEIGHTS}, and by its {DRAFTER} should be "
            f"{wanted.get(wrong, 'missing')}; {AGAIN}"
        )
    head.load_state_dict({name: tensor.float().to(base.device) for name, tensor in tensors.items()}, assign=True)
    return HeadRunner(head, base, parts.vocabulary)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: [*tensor.shape] for name, tensor in tensors.items()}


def _find(stretches: Sequence[tuple[int, Tensor]], at: int) -> tuple[Tensor, int] | None:
    """The states that the one behind the token `at` stands among, and where; None where it is not kept."""
    for start, states in reversed(stretches):
        if start <= at < start + states.shape[0]:
            return states, at - start
    return None

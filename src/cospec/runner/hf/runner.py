"""HfRunner: feeds ragged batches of tokens to a transformers model and returns the rows that are wanted."""

import heapq
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...errors import InvalidPrompt, UnsupportedModel
from ..protocol import Feed, KeptStates, Slot, Tokenizer
from .adapter import Adapter
from .batch import RaggedBatch
from .cache import SlotCache
from .experts import compute_by_sequence
from .forward import Forward, ModelForward
from .graphs import SCRATCH, FixedBatch, FixedShapes, Shapes
from .hidden import HiddenRows, output_embedding
from .invariant import Blocks
from .updates import has_state, lead_over_slots, time_steps

# A forward pass reads all weights, whatever it is fed: it takes as long as about this many tokens take within one.
PASS_COST_ON_CPU, PASS_COST = 48, 512


class HfSlot(Slot):
    """One slot of the cache. adapter: the number of the one that its tokens are computed with, 0 for none. tokens:
    those that it holds, and what a trim has left behind them; of models with recurrent states alone. kept: hidden
    states for a drafter that reads them; None where none does."""

    def __init__(self, index: int, adapter: int = 0) -> None:
        self.index, self.adapter = index, adapter
        self.length = 0
        self.tokens: list[int] = []
        self.kept: KeptStates | None = None


class _Piece(NamedTuple):
    """Tokens of one feed that go through the model in one pass. start: of the first in its slot. rows: how many rows of
    the last tokens are wanted, and `states` how many of their hidden states. settled: how many of the slot's tokens are
    never taken back."""

    slot: HfSlot
    start: int
    tokens: Sequence[int]
    rows: int
    settled: int
    states: int = 0


class HfRunner:
    """A causal language model with a cache that any of its slots can roll back.

    model: in evaluation mode, on its device. tokenizer: None if prompts are token ids. shapes: whether short passes are
    padded to few shapes, and captured. forward: the forward pass, the model's own by default. vocabulary: ids of the
    columns that the model gives, where its head was cut to them; all others have probability zero. blocks: shapes that
    were proven to give the same bits (see `proof`), to which all passes are to keep; None for passes as they come.
    `load`, or `check_supported`, tests whether a model gives the right logits so. acceptance: see Runner.
    """

    acceptance: float | None = None

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer | None = None,
        shapes: Shapes = Shapes.AS_GIVEN,
        forward: Forward | None = None,
        vocabulary: Sequence[int] | None = None,
        blocks: Blocks | None = None,
    ) -> None:
        assert blocks is None or shapes is Shapes.AS_GIVEN, "passes have shapes of one kind"
        config = model.config.get_text_config()
        self.model = model
        self.tokenizer = tokenizer
        self.vocab_size: int = config.vocab_size
        if tokenizer is not None:
            # Columns beyond the tokenizer's entries are padding.
            self.vocab_size = min(self.vocab_size, len(tokenizer.entries()))
        self.context = context_of(config)
        configs = (model.generation_config, model.config.get_text_config())
        self.end_ids = end_ids_of(str(model.name_or_path), configs, tokenizer)
        self.dtype: torch.dtype = model.dtype
        self._device: torch.device = model.device
        self._row_dtype = torch.promote_types(model.dtype, torch.float32)
        num_spare = 0 if shapes is Shapes.AS_GIVEN else SCRATCH + 1
        self._has_state = has_state(model)
        if self._has_state:
            assert shapes is Shapes.AS_GIVEN, "what a rollback does to recurrent states is no fixed shape"
            lead_over_slots(model)
            compute_by_sequence(model)
        self._cache = SlotCache(config.num_hidden_layers, num_spare, time_steps(model) if self._has_state else None)
        self._forward = forward or ModelForward(model)
        self._hands_out = False
        self.vocabulary = vocabulary
        self._columns = None if vocabulary is None else torch.tensor(vocabulary, device=self._device)
        self.shapes = shapes
        self.blocks = blocks
        self.adapters: list[Adapter] = []
        self._free: list[int] = []
        self._num_slots = num_spare
        self.fixed: FixedShapes | None = None
        if shapes is not Shapes.AS_GIVEN:
            is_captured = shapes is Shapes.CAPTURED
            self.fixed = FixedShapes(self._fixed_pass, self._cache, self._device, is_captured=is_captured)

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values, and of recurrent states, as allocated so far."""
        return self._cache.num_bytes

    @property
    def device(self) -> str:
        return str(self._device)

    @property
    def slot_bytes(self) -> int:
        """Bytes that an open slot takes whatever its length: its recurrent states. Before a first pass, which shows
        what they are like, one of a single token is made."""
        if not self._has_state:
            return 0
        if self._cache.state_bytes is None:
            slot = self.open()
            try:
                self.feed([Feed(slot, [0], 0)])
            finally:
                self.close(slot)
        return self._cache.state_bytes or 0

    @property
    def forward(self) -> Forward:
        return self._forward

    @property
    def numerics(self) -> str:
        """Whether a row is a function of the tokens before it alone, to the last bit: "invariant" or "default"."""
        return "default" if self.blocks is None else "invariant"

    def adapt(self, adapters: Sequence[Adapter]) -> None:
        """Take these adapters in place of others: slots may be opened for each by its place in the list, from 1 on. All
        of their modules are the model's."""
        self.adapters = [*adapters]
        self._forward.adapt(adapters)
        if self.fixed is not None:
            self.fixed.adapt()

    @property
    def state_size(self) -> int:
        """Numbers of a hidden state, as the output embedding reads it; 0 where the model has none that says so."""
        return int(getattr(output_embedding(self.model), "in_features", 0))

    def keep_states(self, slot: Slot) -> KeptStates:
        """From now on keep hidden states of this slot: those of the tokens that may be taken back, and some before."""
        assert isinstance(slot, HfSlot), "a slot of another runner"
        if not self._hands_out and self.fixed is not None:
            # Graphs that were captured so far hand out none.
            self.fixed.reset()
        self._hands_out = True
        if slot.kept is None:
            slot.kept = KeptStates()
        return slot.kept

    @torch.inference_mode()
    def open(self, adapter: int = 0) -> HfSlot:
        """An empty slot, for tokens of this adapter; 0 for none."""
        # The lowest free slot is taken, so that live slots stay consecutive.
        if self._free:
            index = heapq.heappop(self._free)
            self._cache.clear(index)
            return HfSlot(index, adapter)
        self._num_slots += 1
        return HfSlot(self._num_slots - 1, adapter)

    def close(self, slot: Slot) -> None:
        index = _index(slot)
        assert index not in self._free, "a slot is closed once"
        heapq.heappush(self._free, index)

    def trim(self, slot: Slot, length: int) -> None:
        assert 0 <= length <= slot.length, "a slot is trimmed to what it holds"
        slot.length = length
        if isinstance(slot, HfSlot) and slot.kept is not None:
            slot.kept.trim(length)

    @property
    def copies(self) -> bool:
        """Whether `copy` can: keys and values are kept of each position, recurrent states of few."""
        return not self._has_state

    @torch.inference_mode()
    def copy(self, source: Slot, slot: Slot, length: int) -> None:
        """Let an empty slot hold the first `length` tokens of another one of the same adapter."""
        assert self.copies, "a slot with recurrent states cannot be copied"
        assert slot.length == 0, "what was read is copied to an empty slot"
        assert length <= source.length, "what was read is copied"
        self._cache.copy(_index(source), _index(slot), length)
        slot.length = length

    def feed(self, batch: Sequence[Feed]) -> list[Tensor]:
        assert all(feed.tokens and 0 <= feed.rows <= len(feed.tokens) for feed in batch)
        longest = max(feed.slot.length + len(feed.tokens) for feed in batch)
        if self.context is not None and longest > self.context:
            raise InvalidPrompt(f"{longest} tokens do not fit into a context of {self.context}; shorten the text")
        pieces = [self._piece(feed) for feed in batch]
        rows: dict[int, list[Tensor]] = defaultdict(list)
        states: dict[int, list[Tensor]] = defaultdict(list)
        pass_cost = PASS_COST_ON_CPU if self._device.type == "cpu" else PASS_COST
        for group in _groups(pieces, pass_cost / self._forward.padding):
            # In the order of slots, so that consecutive ones are read without a copy.
            group.sort(key=lambda i: pieces[i].slot.index)
            for taken in _passes({i: pieces[i] for i in group}, self.blocks):
                own_rows, own_states = self._rows([*taken.values()])
                for i, own in zip(taken, own_rows, strict=True):
                    rows[i].append(own)
                for i, own in zip(taken, own_states, strict=False):
                    states[i].append(own)
        for i, (feed, piece) in enumerate(zip(batch, pieces, strict=True)):
            slot = piece.slot
            if self._has_state:
                slot.tokens[slot.length :] = feed.tokens
            slot.length += len(feed.tokens)
            if slot.kept is not None:
                slot.kept.add(slot.length - piece.states, torch.cat(states[i]))
        return [rows[i][0] if len(rows[i]) == 1 else torch.cat(rows[i]) for i in range(len(batch))]

    def _piece(self, feed: Feed) -> _Piece:
        """The feed; and in front of it what its slot holds, where the recurrent state behind that is lost."""
        slot = feed.slot
        assert isinstance(slot, HfSlot), "a slot of another runner"
        settled = slot.length if feed.settled is None else feed.settled
        states = 0
        if slot.kept is not None:
            num_loose = slot.length + len(feed.tokens) - settled
            states = min(len(feed.tokens), max(feed.rows, num_loose + 1, KeptStates.MOST))
        if not self._has_state:
            return _Piece(slot, slot.length, feed.tokens, feed.rows, settled, states)
        start = self._cache.ledger.start(slot.index, slot.length)
        return _Piece(slot, start, [*slot.tokens[start : slot.length], *feed.tokens], feed.rows, settled, states)

    @torch.inference_mode()
    def _rows(self, pieces: list[_Piece]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The rows of what goes through the model in one forward pass, and its hidden states; none of these where none
        are wanted."""
        batch = RaggedBatch(
            slots=[piece.slot.index for piece in pieces],
            starts=[piece.start for piece in pieces],
            counts=[len(piece.tokens) for piece in pieces],
            device=self._device,
            adapters=[piece.slot.adapter for piece in pieces],
            blocks=self.blocks,
        )
        tokens = [piece.tokens for piece in pieces]
        if self.fixed is not None and self.fixed.can_take(batch):
            # A copy, since the next pass overwrites the logits.
            passed, made = self.fixed.run(batch, tokens)
            logits = self._as_rows(passed, copy=True)
            width = logits.shape[1]
            states = () if made is None else [made[i, width - each.states :].clone() for i, each in enumerate(pieces)]
            return [logits[i, width - piece.rows :] for i, piece in enumerate(pieces)], states
        wanted = [piece.rows for piece in pieces]
        # A pass gives at least one row, wanted or not.
        num_logits = wanted if any(wanted) else [*wanted[:-1], 1]
        plan = self._cache.plan(batch, [piece.settled for piece in pieces]) if self._has_state else None
        hidden = None
        if any(piece.states for piece in pieces):
            hidden = HiddenRows([max(num, piece.states) for num, piece in zip(num_logits, pieces, strict=True)])
        logits = self._forward(batch.padded(tokens), batch, num_logits, self._cache, hidden)
        if plan is not None:
            self._cache.ledger.commit(plan)
        rows = torch.split(self._as_rows(logits), num_logits)
        return [row[:count] for row, count in zip(rows, wanted, strict=True)], _states(hidden, pieces)

    def _as_rows(self, logits: Tensor, *, copy: bool = False) -> Tensor:
        if self._columns is None:
            return logits[..., : self.vocab_size].to(self._row_dtype, copy=copy)
        rows = logits.new_full((*logits.shape[:-1], self.vocab_size), -math.inf, dtype=self._row_dtype)
        rows[..., self._columns] = logits.to(self._row_dtype)
        return rows

    def _fixed_pass(self, batch: FixedBatch) -> tuple[Tensor, Tensor | None]:
        rows, width = batch.input_ids.shape
        hidden = HiddenRows([width] * rows) if self._hands_out else None
        logits = self._forward(batch.input_ids, batch, [width] * rows, self._cache, hidden)
        states = None if hidden is None or hidden.states is None else hidden.states.view(rows, width, -1)
        return logits.view(rows, width, -1), states


def _states(hidden: HiddenRows | None, pieces: Sequence[_Piece]) -> list[Tensor]:
    """The states that each piece wants, of what a pass handed out."""
    if hidden is None or hidden.states is None:
        return []
    made = torch.split(hidden.states, [*hidden.counts])
    return [own[own.shape[0] - piece.states :] for own, piece in zip(made, pieces, strict=True)]


def _index(slot: Slot) -> int:
    assert isinstance(slot, HfSlot), "a slot of another runner"
    return slot.index


def _passes(pieces: dict[int, _Piece], blocks: Blocks | None) -> Iterator[dict[int, _Piece]]:
    """What goes through the model together, by the same keys: all of it, or at most as many tokens as blocks allow."""
    if blocks is None:
        yield pieces
        return
    taken: dict[int, _Piece] = {}
    left = blocks.most
    for key, piece in pieces.items():
        while len(piece.tokens) > left:
            if left:
                taken[key], piece = _parted(piece, left)
            yield taken
            taken, left = {}, blocks.most
        taken[key] = piece
        left -= len(piece.tokens)
    yield taken


def _parted(piece: _Piece, count: int) -> tuple[_Piece, _Piece]:
    """Its first `count` tokens, and the others."""
    num_left = len(piece.tokens) - count
    first = piece._replace(
        tokens=piece.tokens[:count], rows=max(0, piece.rows - num_left), states=max(0, piece.states - num_left)
    )
    last = piece._replace(
        start=piece.start + count,
        tokens=piece.tokens[count:],
        rows=min(piece.rows, num_left),
        states=min(piece.states, num_left),
    )
    return first, last


def _groups(batch: Sequence[Feed | _Piece], pass_cost: float) -> list[list[int]]:
    """Indices of the feeds that go through the model together, so that padding and passes cost the least in all.

    pass_cost: cost of a pass beside its tokens, in tokens of padding. Groups are runs of the sorted lengths; the
    cheapest partition is found by dynamic programming over the distinct lengths.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, feed in enumerate(batch):
        by_length[len(feed.tokens)].append(index)
    lengths = sorted(by_length)
    # For the shortest 0, 1, 2, ... lengths: their least cost in tokens, and where their last group begins.
    cheapest = [(0.0, 0)]
    for stop, longest in enumerate(lengths, start=1):
        counts = [sum(len(by_length[length]) for length in lengths[start:stop]) for start in range(stop)]
        cheapest.append(
            min((cheapest[start][0] + pass_cost + longest * count, start) for start, count in enumerate(counts))
        )
    groups, stop = [], len(lengths)
    while stop > 0:
        start = cheapest[stop][1]
        groups.append([index for length in lengths[start:stop] for index in by_length[length]])
        stop = start
    return groups[::-1]


def context_of(config: object) -> int | None:
    """The most tokens of a sequence whose positions are embedded independently of whatever else is in the batch."""
    context: int | None = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "yarn" and context is not None:
        # Some configurations give the length that the model was trained at first, others the whole one.
        original = rope.get("original_max_position_embeddings") or context
        return max(context, int(rope.get("factor", 1) * original))
    if rope.get("rope_type") == "longrope":
        # A sequence beyond the original length has all its positions embedded anew, which neither the cache nor a
        # shorter sequence in the same batch can follow.
        return int(rope["original_max_position_embeddings"])
    return context


def end_ids_of(name: str, configs: Sequence[object], tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """All that any of the model's files names as an end. configs: its generation configuration, and its own.

    Raises UnsupportedModel for what is no token id.
    """
    ids: dict[int, None] = {}
    for source in configs:
        configured = getattr(source, "eos_token_id", None)
        named = configured if isinstance(configured, list | tuple) else () if configured is None else (configured,)
        if not all(isinstance(token, int) and not isinstance(token, bool) for token in named):
            raise UnsupportedModel(
                f"{name!r} has the end token {configured!r} (eos_token_id); it must be a token id, or a list of them"
            )
        ids |= dict.fromkeys(named)
    return (*(ids | dict.fromkeys(tokenizer.end_ids if tokenizer is not None else ())),)

"""The proof of invariant numerics: which shapes of passes give the same bits for a row, whatever stands beside it.

Kernels choose by shape alone, so that shapes which agree in all bits of random rows agree in those of others. What is
compared: a model's rows in passes of each number of tokens, in other places of a pass, beside other sequences and other
lengths of them, token by token and in chunks; and its attention at lengths of several chunks of positions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ...errors import UnsupportedModel, one_line
from ..protocol import Feed, Slot
from .flat import attend_by_layout
from .forward import Forward, ModelForward
from .invariant import LAST_CHUNK, Blocks, chunk_end
from .masks import RECURRENT
from .packing import prepack
from .runner import HfRunner
from .support import distance, tolerance
from .updates import has_state

# Every other number of tokens must agree with this one. Matrix units of CPUs take 16 rows at once.
REFERENCE = 16
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
# Rows of a product of queries with keys: the fewest is the first of these from which on all agree.
QUERIES = (1, 2, 4, 8, 16)
# Rows that are compared of each number of tokens: a sum of other order gives some rows the same bits.
FEWEST_ROWS = 12
_LENGTHS = (27, 21, 10, 6)
_ADVICE = "leave numerics at default, or choose another dtype or model"


@dataclass(frozen=True)
class Proof:
    """What was found. blocks: None where no shape can be relied on, for the reason `why_not`."""

    blocks: Blocks | None
    why_not: str = ""


def check_device(name: str, device: str) -> None:
    """Raises UnsupportedModel for a device that invariant numerics were not tested on."""
    if torch.device(device).type != "cpu":
        raise UnsupportedModel(
            f"{name!r} is to run on {device}, and numerics: invariant is tested on CPUs alone; set device to cpu, or "
            "leave numerics at default"
        )


def prove(name: str, runner: HfRunner) -> Blocks:
    """The shapes that the runner's passes may have, with the adapters that it has now.

    Raises UnsupportedModel, with what was off, where a row is no function of the tokens before it alone.
    """
    model = runner.model
    where = f"{name!r} ({model.config.model_type})"
    check_kind(name, model.config, type(model))
    try:
        if isinstance(runner.forward, ModelForward):
            attend_by_layout(model)
            # Of plain layers as small as the rest, kernels are chosen by the number of rows.
            prepack(model, fewest_weights=1)
        proof = proven(model, runner.forward, len(runner.adapters))
    except Exception as error:  # whatever the model raises, it cannot be run so
        proof = Proof(None, one_line(error))
    if proof.blocks is None:
        raise UnsupportedModel(f"{where} cannot be run with numerics: invariant: {proof.why_not}; {_ADVICE}")
    return proof.blocks


def check_kind(name: str, config: PreTrainedConfig, model_class: Any) -> None:
    """Raises UnsupportedModel for a kind of model whose rows are no functions of the tokens before them alone."""
    text = config.get_text_config()
    reason = None
    if set(getattr(text, "layer_types", None) or ()) & RECURRENT == {"conv"}:
        reason = "has short convolutions, which are computed over blocks of a text as they come, and not token by token"
    elif has_state(model_class, text):
        reason = (
            "keeps a recurrent state, whose update sums a block as a whole, so that rows depend on how long blocks are"
        )
    elif has_experts(text):
        reason = (
            "sends tokens to experts, whose products are as large as a pass has tokens for them, so that rows are no "
            "function of the tokens before them alone"
        )
    if reason is not None:
        raise UnsupportedModel(f"{name!r} ({config.model_type}) {reason} (numerics: invariant); {_ADVICE}")


def has_experts(config: PreTrainedConfig) -> bool:
    """Whether the model of this configuration is a mixture of experts."""
    counts = [value for key, value in config.to_dict().items() if key.endswith("experts")]
    return any(isinstance(count, int) and count > 1 for count in counts)


@torch.inference_mode()
def proven(model: PreTrainedModel, forward: Forward, num_adapters: int = 0) -> Proof:
    """Which shapes give the bits of passes of REFERENCE tokens. num_adapters: that the pass has."""
    fewest = _fewest_queries(model)
    if fewest is None:
        return Proof(None, "its attention gives other bits for a query beside others, or beside longer texts")
    probe = _Probe(model, forward, num_adapters, fewest)
    usual = Blocks((REFERENCE,), fewest)
    if not (off := distance(model, forward, blocks=usual)) < (allowed := tolerance(model)):
        return Proof(None, f"it gives other logits (off by {off:.2g} of their spread, allowed {allowed:g})")
    expected = probe.rows(usual, _whole_prompts)
    for how, feeding in (("in other slots, order and chunks", _in_chunks), ("alone, token by token", _alone)):
        found = probe.rows(usual, feeding, is_reversed=True)
        if off := _off(expected, found):
            return Proof(None, f"passes of {REFERENCE} tokens give other rows {how} (off by {off:.2g})")
    # Each of the probe's adapters by itself.
    least = len(_LENGTHS) if num_adapters else 2
    num_calls = {size: max(least, -(-FEWEST_ROWS // size)) for size in SIZES if size != REFERENCE}
    of_sizes = {size: probe.rows(Blocks((size,), fewest), _first_tokens(size, num)) for size, num in num_calls.items()}
    agreed = [size for size in SIZES if size == REFERENCE or not _off(expected, of_sizes[size])]
    return Proof(Blocks((*agreed,), fewest))


# What is fed of each of the probe's sequences, call by call: (tokens of each, so far) -> tokens of each, zero for none.
Feeding = Callable[[Sequence[int]], Sequence[int] | None]


def _whole_prompts(fed: Sequence[int]) -> Sequence[int] | None:
    return None if any(fed) else _LENGTHS


def _in_chunks(fed: Sequence[int]) -> Sequence[int] | None:
    """Up to seven tokens of the first, five of the second, ..., in one call."""
    counts = [min(size, total - done) for size, total, done in zip((7, 5, 3, 1), _LENGTHS, fed, strict=True)]
    return counts if any(counts) else None


def _alone(fed: Sequence[int]) -> Sequence[int] | None:
    """The last sequence, token by token."""
    return (0, 0, 0, 1) if fed[3] < _LENGTHS[3] else None


def _first_tokens(size: int, num_calls: int) -> Feeding:
    """So many tokens a call: of the first sequence and those behind it, then of the second, and so on, in turn."""

    def feeding(fed: Sequence[int]) -> Sequence[int] | None:
        call, left = sum(fed) // size, size
        counts, first = [0] * len(fed), call % len(fed)
        for i in (*range(first, len(fed)), *range(first)):
            counts[i] = min(left, _LENGTHS[i] - fed[i])
            left -= counts[i]
        return counts if call < num_calls and not left else None

    return feeding


class _Probe:
    """A model, and sequences that are fed to it."""

    def __init__(self, model: PreTrainedModel, forward: Forward, num_adapters: int, fewest_queries: int) -> None:
        self._model, self._forward = model, forward
        self._fewest = fewest_queries
        # The newest one, the one before, the first one and none.
        self._adapters = (num_adapters, max(0, num_adapters - 1), min(1, num_adapters), 0)
        size = min(model.config.get_text_config().vocab_size, 1000)
        self._texts = [
            [(step * i + step) % size for i in range(n)] for step, n in zip((7, 5, 3, 11), _LENGTHS, strict=True)
        ]

    def rows(self, blocks: Blocks, feeding: Feeding, *, is_reversed: bool = False) -> list[list[Tensor]]:
        """The rows of each sequence, as far as it is fed."""
        runner = HfRunner(self._model, forward=self._forward, blocks=blocks)
        order = range(len(self._texts))
        slots: dict[int, Slot] = {
            i: runner.open(self._adapters[i]) for i in (reversed(order) if is_reversed else order)
        }
        rows: list[list[Tensor]] = [[] for _ in order]
        while (counts := feeding([slots[i].length for i in order])) is not None:
            taken = [i for i in order if counts[i]]
            feeds = [
                Feed(slots[i], self._texts[i][slots[i].length : slots[i].length + counts[i]], counts[i]) for i in taken
            ]
            for i, own in zip(taken, runner.feed(feeds), strict=True):
                rows[i] += own
        return rows


def _off(expected: list[list[Tensor]], found: list[list[Tensor]]) -> float:
    """The largest difference of rows that both have; 0 where all bits agree."""
    pairs = [pair for one, other in zip(expected, found, strict=True) for pair in zip(one, other, strict=False)]
    different = [(one, other) for one, other in pairs if not torch.equal(one, other)]
    return max((float((one - other).abs().max()) for one, other in different), default=0.0)


def _fewest_queries(model: PreTrainedModel) -> int | None:
    """The fewest rows of a product of queries with keys from which on the bits of a row are the same."""
    config = model.config.get_text_config()
    num_heads = int(config.num_attention_heads)
    num_groups = int(getattr(config, "num_key_value_heads", None) or num_heads)
    dim = int(getattr(config, "head_dim", None) or config.hidden_size // num_heads)
    for fewest in QUERIES:
        if _is_attention_invariant(num_heads // num_groups, num_groups, dim, model.dtype, fewest):
            return fewest
    return None


@cache
def _is_attention_invariant(share: int, num_groups: int, dim: int, dtype: torch.dtype, fewest: int) -> bool:
    """Whether a query's sum does not depend on other queries, other texts, and the length of what stands beside it."""
    generator = torch.Generator().manual_seed(dim)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    most, blocks = 4 * LAST_CHUNK, Blocks((REFERENCE,), fewest)
    queries = drawn(5, share * num_groups, 40, dim)
    # Sums of products that nearly cancel show in which order they were added, once they are rounded.
    first = queries[:, ::share, :1].to(torch.float32)
    keys, values = drawn(5, num_groups, most, dim).float(), drawn(5, num_groups, most, dim).float()
    keys = (keys - (keys * first).sum(-1, keepdim=True) * first / first.square().sum(-1, keepdim=True)).to(dtype)
    for seen in (1, 50, 100, 200, LAST_CHUNK, 600):
        lengths = {chunk_end(seen), chunk_end(seen + LAST_CHUNK), most}
        of_seen = (values - values[:, :, :seen].mean(2, keepdim=True) if seen > 1 else values).to(dtype)
        expected = _attended(blocks, queries[:1, :, :1], keys[:1], of_seen[:1], seen, chunk_end(seen))
        for num, width, length in [(n, w, k) for n in (1, 5) for w in (1, 2, 3, 40) for k in lengths]:
            found = _attended(blocks, queries[:num, :, :width], keys[:num], of_seen[:num], seen, length)
            if not torch.equal(found[:1, :, :1], expected):
                return False
    return True


def _attended(blocks: Blocks, queries: Tensor, keys: Tensor, values: Tensor, seen: int, length: int) -> Tensor:
    """What queries attend to that all see so many of the keys, of which so many are read."""
    hidden = (torch.arange(length) >= seen) * torch.finfo(queries.dtype).min
    mask = hidden.to(queries.dtype).expand(queries.shape[0], 1, queries.shape[2], length)
    dim = queries.shape[-1]
    return blocks.attend(queries, keys[:, :, :length], values[:, :, :length], mask, dim**-0.5)

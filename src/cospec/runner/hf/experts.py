"""Experts of which a product has the tokens of one sequence alone.

How a product rounds depends on how many rows it has. Joined over a pass, as transformers joins them, products of
experts have as many as tokens of all sequences chose them: another sequence's tokens would change a recurrent state.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from .batch import ForwardBatch

PREFIX = "cospec_by_sequence_"
# What is replaced: functions for weights as they are, not for quantised ones.
_USUAL = ("eager", "grouped_mm", "batched_mm")

# The layout of the pass that runs: a model may be run by several threads.
_BATCH: ContextVar[ForwardBatch | None] = ContextVar("batch", default=None)


@contextmanager
def of_batch(batch: ForwardBatch) -> Iterator[None]:
    """Within it, experts of models that `compute_by_sequence` know whose their tokens are."""
    token = _BATCH.set(batch)
    try:
        yield
    finally:
        _BATCH.reset(token)


def compute_by_sequence(model: PreTrainedModel) -> None:
    """Let a model on a CPU, if it has experts, compute them so in passes of several sequences."""
    config = model.config.get_text_config()
    usual: str | None = config._experts_implementation
    if usual not in _USUAL or model.device.type != "cpu":
        return
    name = PREFIX + usual
    if name not in ALL_EXPERTS_FUNCTIONS:
        ALL_EXPERTS_FUNCTIONS.register(name, partial(_experts, usual))
    config._experts_implementation = name


def _experts(usual: str, module: nn.Module, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """hidden: [rows * width, dim]. chosen, weights: of each token its experts and their shares, [rows * width, k]."""
    batch = _BATCH.get()
    if batch is None or len(hidden) == batch.width:
        default: Callable[..., Tensor] = type(module).forward.__wrapped__  # type: ignore[attr-defined]
        function = ALL_EXPERTS_FUNCTIONS.get_interface(usual, default)
        output: Tensor = function(module, hidden, chosen, weights)
        return output
    sequences = torch.arange(len(hidden) // batch.width, device=hidden.device).repeat_interleave(batch.width)
    if batch.tokens is None:
        return _by_sequence(module, hidden, chosen, weights, sequences)
    # Padding would make products larger.
    rows, columns = batch.tokens
    tokens = rows * batch.width + columns
    output = torch.zeros_like(hidden)
    output[tokens] = _by_sequence(module, hidden[tokens], chosen[tokens], weights[tokens], sequences[tokens])
    return output


def _by_sequence(module: Any, hidden: Tensor, chosen: Tensor, weights: Tensor, sequences: Tensor) -> Tensor:
    """sequences: of each token, [tokens]."""
    num_tokens, k = chosen.shape
    # By expert first: all products that read an expert's weights follow one another.
    order = (chosen * (sequences.max() + 1) + sequences[:, None]).flatten().argsort(stable=True)
    experts, sources = chosen.flatten()[order], order // k
    groups = torch.stack([experts, sequences[sources]]).unique_consecutive(dim=1, return_counts=True)  # type: ignore[no-untyped-call]
    spans = [*zip(groups[0][0].tolist(), groups[1].tolist(), strict=True)]
    up = "gate_up_proj" if module.has_gate else "up_proj"
    inner = _products(module, up, hidden[sources], experts, spans)
    inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
    outer = _products(module, "down_proj", inner, experts, spans)
    if module.has_post_expert_norm:
        outer = module.post_expert_norm(outer)
    shares = torch.empty_like(outer)
    shares[order] = outer * weights.flatten()[order][:, None].to(outer.dtype)
    return shares.view(num_tokens, k, -1).sum(dim=1).to(hidden.dtype)


def _products(module: Any, name: str, rows: Tensor, experts: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    """Rows, each times its expert's matrix of that name. spans: of each product, its expert and number of rows."""
    matrices = getattr(module, name)
    if not module.is_transposed:
        matrices = matrices.transpose(-1, -2)
    output = rows.new_empty((len(rows), matrices.shape[-1]))
    stop = 0
    for expert, count in spans:
        start, stop = stop, stop + count
        torch.mm(rows[start:stop], matrices[expert], out=output[start:stop])
    return output + getattr(module, f"{name}_bias")[experts] if module.has_bias else output

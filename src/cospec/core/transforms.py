"""Transforms: log r -> the log-probabilities that tokens are drawn from, by the sampling parameters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .params import SamplingParams


@dataclass(frozen=True, kw_only=True)
class History:
    """What the transforms of one block of positions look back on.

    prompt: the user's prompt. output: tokens before the block, then the block's drafts, so that position j of
    the block looks back on output[: start + j].
    """

    prompt: Sequence[int]
    output: Sequence[int]
    start: int


def shape_members(logits: Tensor, params: SamplingParams) -> Tensor:
    """The members' rows [members, positions, vocab] under member_temperature and member_top_p."""
    if params.member_temperature != 1:
        logits = _heated(logits, params.member_temperature)
    if params.member_top_p < 1:
        logits = _keep_top_p(torch.log_softmax(logits, dim=-1), params.member_top_p)
    return logits


def shape(
    log_probs: Tensor,
    params: SamplingParams,
    history: History,
    end_ids: Sequence[int],
    level: Tensor | float = 0.0,
) -> Tensor:
    """log-probabilities [positions, vocab] -> those that tokens are drawn from, same shape, normalised.

    In this order: logit bias, forbidden ends and the constraint, repetition / presence / frequency penalties,
    temperature, top-k, top-p, min-p. At temperature 0 a row is 0 at its argmax and -inf elsewhere.

    level: what the repetition penalty, which multiplies or divides, adds to log_probs first, [positions, 1]; see
    `combine.level`.
    """
    if params.is_identity:
        return log_probs
    logits = _bias(log_probs, params, history, end_ids)
    if params.has_penalties:
        logits = _penalise(logits, params, history, level)
    return warp(logits, params)


def warp(logits: Tensor, params: SamplingParams) -> Tensor:
    """Temperature, top-k, top-p and min-p alone, which look at nothing but the row: log-probabilities, normalised."""
    if params.temperature == 0:
        return _one_hot(logits)
    logits = _heated(logits, params.temperature)
    if params.top_k:
        kth = logits.topk(min(params.top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -math.inf)
    if params.top_p < 1:
        logits = _keep_top_p(torch.log_softmax(logits, dim=-1), params.top_p)
    if params.min_p > 0:
        floor = logits.amax(-1, keepdim=True) + math.log(params.min_p)
        logits = logits.masked_fill(logits < floor, -math.inf)
    return torch.log_softmax(logits, dim=-1)


def _heated(logits: Tensor, temperature: float) -> Tensor:
    """Logits over the temperature, shifted so that their maximum is 0: it stays finite under a temperature that rounds
    to 0 in the rows' type."""
    return (logits - logits.amax(-1, keepdim=True)) / max(temperature, torch.finfo(logits.dtype).tiny)


def _bias(log_probs: Tensor, params: SamplingParams, history: History, end_ids: Sequence[int]) -> Tensor:
    num_early = min(max(params.min_tokens - history.start, 0), log_probs.shape[0])
    if not params.logit_bias and not num_early and params.constraint is None:
        return log_probs
    logits = log_probs.clone()
    if params.logit_bias:
        logits[:, [*params.logit_bias]] += logits.new_tensor([*params.logit_bias.values()])
    if num_early and end_ids:
        logits[:num_early, list(end_ids)] = -math.inf
    if params.constraint is not None:
        allowed = params.constraint.allowed(history.output, history.start, logits.shape[0])
        logits = logits.masked_fill(~allowed.to(logits.device), -math.inf)
    return logits


def _penalise(logits: Tensor, params: SamplingParams, history: History, level: Tensor | float) -> Tensor:
    counts = _counts(history, logits)
    seen = counts > 0
    if history.prompt:
        in_prompt = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        in_prompt[torch.tensor(list(history.prompt), device=logits.device)] = True
        repeated = seen | in_prompt
    else:
        repeated = seen
    penalty = params.repetition_penalty
    if penalty != 1:
        logits = logits + level
        logits = torch.where(repeated, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    return logits - params.frequency_penalty * counts - params.presence_penalty * seen.to(logits)


def _counts(history: History, like: Tensor) -> Tensor:
    """[positions, vocab]: how often each token stands in the output before each position."""
    counts = torch.zeros_like(like)
    before = torch.tensor(list(history.output[: history.start]), dtype=torch.long, device=like.device)
    counts[0].index_add_(0, before, torch.ones_like(before, dtype=like.dtype))
    for row in range(1, like.shape[0]):
        counts[row] = counts[row - 1]
        counts[row, history.output[history.start + row - 1]] += 1
    return counts


def _keep_top_p(log_probs: Tensor, top_p: float) -> Tensor:
    """-inf outside the smallest set of most probable tokens whose sum reaches top_p (ties to the lowest id)."""
    ordered, order = log_probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    # The most probable one stays, whatever top_p rounds to.
    kept = ordered.masked_fill(before >= max(top_p, torch.finfo(before.dtype).tiny), -math.inf)
    return torch.empty_like(log_probs).scatter_(-1, order, kept)


def _one_hot(logits: Tensor) -> Tensor:
    """0 at each row's argmax and -inf elsewhere; NaN at that of a row without a maximum (NaN, or nothing allowed)."""
    highest, best = logits.max(-1, keepdim=True)
    return torch.full_like(logits, -math.inf).scatter_(-1, best, highest - highest)

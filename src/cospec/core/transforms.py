"""Transforms: log r -> the log-probabilities that tokens are drawn from, by the sampling parameters."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .params import SamplingParams
from .rows import LogProbs, normalised, value_of
from .select import (
    DEPTHS,
    NO_CHANGES,
    Changes,
    HotRow,
    Kept,
    Row,
    changed,
    heated,
    is_cut,
    kept_by_min_p,
    kept_by_top_k,
    kept_by_top_p,
)
from .summed import KeptLogProbs, SummedLogProbs


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
        logits = heated(logits, params.member_temperature)
    if params.member_top_p < 1:
        log_p = torch.log_softmax(logits, dim=-1)
        is_kept = (_is_selected if _can_be_cut(log_p) else _is_kept)(heated(logits, 1.0), params.member_top_p)
        logits = log_p.masked_fill_(~is_kept, -math.inf)
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
    return warp(biased(log_probs, params, history, end_ids, level), params)


def biased(
    log_probs: Tensor,
    params: SamplingParams,
    history: History,
    end_ids: Sequence[int],
    level: Tensor | float = 0.0,
) -> Tensor:
    """What `shape` does before the temperature: logits [positions, vocab], not normalised."""
    logits = _bias(log_probs, params, history, end_ids)
    return _penalise(logits, params, history, level) if params.has_penalties else logits


def warp(logits: Tensor, params: SamplingParams) -> Tensor:
    """Temperature, top-k, top-p and min-p alone, which look at nothing but the row: log-probabilities, normalised.

    In plain torch, over the whole vocabulary: what `warped` is tested against.
    """
    if params.temperature == 0:
        return _one_hot(logits)
    logits = heated(logits, params.temperature)
    if params.top_k:
        kth = logits.topk(min(params.top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -math.inf)
    if params.top_p < 1:
        logits = logits.masked_fill(~_is_kept(logits, params.top_p), -math.inf)
    if params.min_p > 0:
        floor = logits.amax(-1, keepdim=True) + math.log(params.min_p)
        logits = logits.masked_fill(logits < floor, -math.inf)
    return torch.log_softmax(logits, dim=-1)


def warped(logits: Tensor, params: SamplingParams, drafted: Sequence[int] = ()) -> LogProbs:
    """`warp`, on a CPU with columns for the tokens alone that are kept at each position, or with sums where all are.

    The same tokens are kept. Their log-probabilities agree up to rounding, since they are normalised over fewer.

    drafted: the tokens drafted at the first positions. Where one is not kept, none can stand behind it, and later
    positions are left out.
    """
    if params.is_identity:
        return SummedLogProbs.of(logits, 1.0, partial(torch.log_softmax, dim=-1))
    if not params.cuts:
        return SummedLogProbs.of(logits, params.temperature, partial(warp, params=params))
    if not is_cut(logits):
        return LogProbs(warp(logits, params))
    return _cut(((row, NO_CHANGES) for row in logits.detach().numpy()), params, drafted[: len(logits)])


def shaped(
    log_probs: Tensor,
    params: SamplingParams,
    history: History,
    end_ids: Sequence[int],
    level: Tensor | float = 0.0,
    drafted: Sequence[int] = (),
) -> LogProbs:
    """`warped` of what is `biased`; rows with columns are penalised one by one, as far as they are looked at."""
    if not (params.has_penalties and params.cuts and is_cut(log_probs)):
        return warped(biased(log_probs, params, history, end_ids, level), params, drafted)
    rows = _bias(log_probs, params, history, end_ids).detach().numpy()
    return _cut(_each_penalised(rows, params, history, level), params, drafted[: len(rows)])


def _cut(rows: Iterable[tuple[Row, Changes]], params: SamplingParams, drafted: Sequence[int]) -> LogProbs:
    """Columns for what is kept of rows [vocab] with their changes, of which drafts stand at the first."""
    kept = []
    for (row, changes), token in itertools.zip_longest(rows, drafted):
        ids, values = _kept(row, changes, params)
        kept.append((ids, values))
        if token is not None and value_of(values, ids, token, -math.inf) == -math.inf:
            break
    return KeptLogProbs.of(kept) if params.temperature > 0 else normalised(kept)


def _can_be_cut(logits: Tensor) -> bool:
    """Whether each row has a maximum, too: one with NaN has none, nor one that allows nothing."""
    return is_cut(logits) and bool(logits.amax(-1).isfinite().all())


def _kept(logits: Row, changes: Changes, params: SamplingParams) -> Kept:
    """Of one row [vocab] with its changes the tokens that are kept, ascending, and their heated logits, [kept] each:
    NaN for a row without a maximum (NaN, or nothing allowed)."""
    if params.temperature == 0:
        logits = changed(logits, changes)
        best = int(logits.argmax())
        highest = float(logits[best])
        return np.array([best]), np.array([highest - highest], dtype=logits.dtype)
    is_summed = params.top_p < 1 and not params.top_k
    row = HotRow.of(
        logits, params.temperature, is_summed=is_summed, changes=changes, depth=DEPTHS[0] if is_summed else 0.0
    )
    if not math.isfinite(row.highest):
        return np.array([0]), np.array([math.nan], dtype=logits.dtype)
    kept = kept_by_top_k(row, params.top_k) if params.top_k else None
    if params.top_p < 1:
        kept = kept_by_top_p(row, params.top_p, kept)
    if params.min_p > 0:
        kept = kept_by_min_p(row, params.min_p, kept)
    assert kept is not None, "there is something to be cut"
    return kept


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
    """Under the penalties. They touch the tokens alone that stand before each position."""
    # The level is no penalty: it shifts a row as a whole.
    logits = logits + level if params.repetition_penalty != 1 else logits.clone()
    for row, before in zip(logits, _counts_before(params, history, len(logits)), strict=True):
        if before:
            tokens = torch.tensor([*before], device=logits.device)
            times = torch.tensor([*before.values()], dtype=row.dtype, device=logits.device)
            row[tokens] = _penalised(row[tokens], times, params, torch.where)
    return logits


def _each_penalised(
    rows: Row, params: SamplingParams, history: History, level: Tensor | float
) -> Iterator[tuple[Row, Changes]]:
    """Rows [positions, vocab], and what the penalties change of each: by numpy, which takes few entries in a small part
    of torch's time."""
    if isinstance(level, Tensor):
        rows = rows + np.asarray(level, dtype=rows.dtype).reshape(-1, 1)
    for row, before in zip(rows, _counts_before(params, history, len(rows)), strict=True):
        tokens = np.array([*before], dtype=np.int64)
        times = np.array([*before.values()], dtype=row.dtype)
        order = tokens.argsort()
        tokens, times = tokens[order], times[order]
        yield row, (tokens, _penalised(row[tokens], times, params, np.where))


def _counts_before(params: SamplingParams, history: History, num_positions: int) -> Iterator[dict[int, int]]:
    """For each position the tokens that the penalties touch, and how often each stands in the output before it."""
    prompt = dict.fromkeys(history.prompt, 0) if params.repetition_penalty != 1 else {}
    counts = Counter(history.output[: history.start])
    for position in range(history.start, history.start + num_positions):
        if position > history.start:
            counts[history.output[position - 1]] += 1
        yield {**prompt, **counts}


def _penalised(own: Any, times: Any, params: SamplingParams, where: Callable[..., Any]) -> Any:
    """Logits [tokens] under the penalties, of tokens that stood before so many times; numpy's or torch's."""
    if params.repetition_penalty != 1:
        own = where(own > 0, own / params.repetition_penalty, own * params.repetition_penalty)
    return where(times > 0, own - params.frequency_penalty * times - params.presence_penalty, own)


def _is_kept(logits: Tensor, top_p: float) -> Tensor:
    """Which tokens are in the smallest set of most probable ones whose sum reaches top_p, ties to the lowest id, from
    logits [..., vocab] whose maximum is 0.

    Weights are summed in float64: a sum of 150,000 in float32 is off by more than a token's own share.
    """
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    weights = ordered.exp()
    running = weights.cumsum(-1, dtype=torch.float64)
    is_kept = running - weights < top_p * running[..., -1:]
    # The most probable one stays, whatever top_p rounds to.
    is_kept[..., 0] = True
    return torch.empty_like(is_kept).scatter_(-1, order, is_kept)


def _is_selected(logits: Tensor, top_p: float) -> Tensor:
    """The same by selection."""
    is_kept = torch.zeros_like(logits, dtype=torch.bool)
    for row, own in zip(logits.detach().flatten(0, -2).numpy(), is_kept.flatten(0, -2), strict=True):
        own[torch.from_numpy(kept_by_top_p(HotRow.of(row, 1.0, is_summed=True), top_p)[0])] = True
    return is_kept


def _one_hot(logits: Tensor) -> Tensor:
    """0 at each row's argmax and -inf elsewhere; NaN at that of a row without a maximum (NaN, or nothing allowed)."""
    highest, best = logits.max(-1, keepdim=True)
    return torch.full_like(logits, -math.inf).scatter_(-1, best, highest - highest)

"""Reporting: log-probabilities of settled tokens."""

from dataclasses import dataclass

import torch

from .policy import Policy
from .sheet import Sequence
from .target import Span, log_combined


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log r, and the most probable tokens of r at its position with theirs, the first first."""

    position: int
    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def score(sequence: Sequence, policy: Policy) -> list[TokenLogprob]:
    """log r of each settled token, of the prompt's too if wanted, whose rows are all there and not yet reported."""
    if not sequence.wants_logprobs:
        return []
    start = sequence.scored
    stop = min(sequence.position, *(sequence.lanes[i].seen + 1 for i in sequence.members))
    if sequence.params.logprobs is None:
        stop = min(stop, 0)
    if stop <= start:
        return []
    sequence.scored = stop
    (log_r,) = log_combined([Span(sequence, start, stop)], policy.combination)
    text = (*sequence.prompt, *sequence.output)[len(sequence.prompt) + start : len(sequence.prompt) + stop]
    of_token = log_r.gather(1, torch.tensor(text, device=log_r.device)[:, None])[:, 0].tolist()
    values, ids = log_r.topk(min(_num_top(sequence, start), log_r.shape[-1]), dim=-1)
    rows = zip(range(start, stop), text, of_token, ids.tolist(), values.tolist(), strict=True)
    return [
        TokenLogprob(position, token, logprob, tuple(zip(top, top_values, strict=True))[: _num_top(sequence, position)])
        for position, token, logprob, top, top_values in rows
    ]


def _num_top(sequence: Sequence, position: int) -> int:
    """How many alternatives are wanted from `position` on."""
    params = sequence.params
    prompt, output = params.prompt_logprobs or 0, params.logprobs or 0
    return max(prompt, output) if position < 0 else output

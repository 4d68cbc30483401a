"""The log-probabilities of settled tokens."""

import torch

from .sheet import Sheet
from .target import Span, log_combined
from .tokens import TokenLogprob


def score(sheet: Sheet) -> list[TokenLogprob]:
    """log r of each settled token, and of the prompt's if wanted, whose rows are all there and not yet reported.

    Changes nothing: the engine marks the sheet as scored when it reports them.
    """
    if not sheet.wants_logprobs:
        return []
    start = sheet.scored
    stop = min(sheet.position, *(sheet.lanes[i].seen + 1 for i in sheet.members))
    if sheet.params.logprobs is None:
        stop = min(stop, 0)
    if stop <= start:
        return []
    (log_r,) = log_combined([Span(sheet, start, stop)], sheet.combination)
    tokens = (*sheet.prompt, *sheet.output)[len(sheet.prompt) + start : len(sheet.prompt) + stop]
    of_token = log_r.gather(1, torch.tensor(tokens, device=log_r.device)[:, None])[:, 0].tolist()
    # One selection for all positions, of as many alternatives as the first reports: the prompt reports the most.
    most = _num_top(sheet, start)
    values, ids = log_r.topk(min(most, log_r.shape[-1]), dim=-1)
    tops = [
        tuple(zip(own, own_values, strict=True)) for own, own_values in zip(ids.tolist(), values.tolist(), strict=True)
    ]
    return [
        TokenLogprob(position, token, logprob, top[: _num_top(sheet, position)])
        for position, token, logprob, top in zip(range(start, stop), tokens, of_token, tops, strict=True)
    ]


def _num_top(sheet: Sheet, position: int) -> int:
    """How many alternatives are reported at this position."""
    of_prompt, of_output = sheet.params.prompt_logprobs or 0, sheet.params.logprobs or 0
    return max(of_prompt, of_output) if position < 0 else of_output

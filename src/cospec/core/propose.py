"""Drafting: the token at a sheet's frontier, from a lane's bonus row."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..errors import CospecError
from .draws import Purpose, draw, probabilities
from .noise import by_place, noisy_argmax
from .sheet import Sheet
from .target import Span, distributions, joined, no_distribution
from .tokens import Draft

Proposal = tuple[Sheet, int]
"""A sheet, and the lane that proposes its next token."""


def propose(proposals: Sequence[Proposal]) -> list[CospecError | None]:
    """Each sheet drafts a token from its lane's bonus row, under the transforms of the target.

    A drafter whose row allows no token has none to propose, and declines. An error stands for a sequence that drafted
    nothing: its member's row is no distribution, or its transforms raised it.
    """
    rows = [Span(sheet, sheet.frontier, sheet.frontier + 1).of(lane) for sheet, lane in proposals]
    outcomes: list[CospecError | None] = [None] * len(proposals)
    for same in by_place(rows):
        log_own = torch.log_softmax(joined([rows[i] for i in same]), dim=-1)
        sheets = [proposals[i][0] for i in same]
        log_qs = distributions([(own, own.frontier, log_own[row : row + 1]) for row, own in enumerate(sheets)])
        drafting: dict[bool, dict[int, Tensor]] = {False: {}, True: {}}
        for row, (i, log_q) in enumerate(zip(same, log_qs, strict=True)):
            if isinstance(log_q, Tensor):
                drafting[sheets[row].is_coupled][row] = log_q
            else:
                outcomes[i] = log_q or _without(*proposals[i])
        for are_coupled, alike in drafting.items():
            if alike:
                own = log_own if len(alike) == len(same) else log_own[[*alike]]
                draft = _draft_coupled if are_coupled else _draft
                draft([proposals[same[row]] for row in alike], own, joined([*alike.values()]))
    return outcomes


def _without(sheet: Sheet, lane: int) -> CospecError | None:
    """A row that is no distribution: a drafter's means that it has nothing to propose, a member's is an error."""
    if lane in sheet.members:
        return no_distribution(sheet.lanes[lane].name)
    sheet.decline(lane)
    return None


def _draft(proposals: Sequence[Proposal], log_own: Tensor, log_q: Tensor) -> None:
    """Draw a token each, which becomes a draft. log_own, log_q: the lanes' own log-probabilities and those under the
    transforms, [proposals, vocab] each."""
    probs = probabilities(log_q)
    uniforms = [own.draws.uniform(own.frontier, Purpose.PROPOSE, own.epoch) for own, _ in proposals]
    _extend(proposals, draw(probs, uniforms), probs, log_own)


def _draft_coupled(proposals: Sequence[Proposal], log_own: Tensor, log_q: Tensor) -> None:
    """The same by the noise that settles the position."""
    rows = zip(proposals, torch.split(log_q, 1), strict=True)
    tokens = noisy_argmax([(sheet, sheet.frontier, row) for (sheet, _), row in rows])
    _extend(proposals, torch.tensor(tokens, device=log_own.device), [None] * len(proposals), log_own)


def _extend(proposals: Sequence[Proposal], tokens: Tensor, probs: Iterable[Tensor | None], log_own: Tensor) -> None:
    """tokens: [proposals, 1] ids."""
    of_tokens = log_own.gather(1, tokens).tolist()
    for (sheet, lane), (token,), row, (log_p,) in zip(proposals, tokens.tolist(), probs, of_tokens, strict=True):
        sheet.extend(Draft(token, lane, row, place=len(sheet.drafts), confidence=math.exp(log_p)))

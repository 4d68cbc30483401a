"""Drafting: the token at a sheet's frontier, from a lane's bonus row."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..errors import CospecError
from .draws import Purpose, draw, probabilities
from .noise import by_place, noisy_argmax
from .sheet import Sheet
from .target import Span, Unshaped, distributions, joined, no_distribution
from .tokens import Draft

Proposal = tuple[Sheet, int]
"""A sheet, and the lane that proposes its next token."""


def propose(proposals: Sequence[Proposal]) -> list[CospecError | None]:
    """Each sheet drafts a token from its lane's bonus row, under the transforms of the target.

    A drafter whose row allows no token has none to propose, and declines. An error stands for a sequence that drafted
    nothing: its member's row is no distribution, or its transforms raised it. No sheet is changed if anything raises.
    """
    rows = [Span(sheet, sheet.frontier, sheet.frontier + 1).of(lane) for sheet, lane in proposals]
    outcomes: list[Draft | CospecError | None] = [None] * len(proposals)
    for same in by_place(rows):
        log_own = torch.log_softmax(joined([rows[i] for i in same]), dim=-1)
        sheets, lanes = zip(*(proposals[i] for i in same), strict=True)
        log_qs = distributions(
            [
                Unshaped(own, own.frontier, log_own[row : row + 1], [lane])
                for row, (own, lane) in enumerate(zip(sheets, lanes, strict=True))
            ]
        )
        drafting: dict[bool, dict[int, Tensor]] = {False: {}, True: {}}
        for row, (i, log_q) in enumerate(zip(same, log_qs, strict=True)):
            if isinstance(log_q, Tensor):
                drafting[sheets[row].is_coupled][row] = log_q
            else:
                outcomes[i] = log_q
        for are_coupled, alike in drafting.items():
            if alike:
                own = log_own if len(alike) == len(same) else log_own[[*alike]]
                draft = _draft_coupled if are_coupled else _draft
                drafted = draft([proposals[same[row]] for row in alike], own, joined([*alike.values()]))
                for row, made in zip(alike, drafted, strict=True):
                    outcomes[same[row]] = made
    return [_applied(*proposal, outcome) for proposal, outcome in zip(proposals, outcomes, strict=True)]


def _applied(sheet: Sheet, lane: int, outcome: Draft | CospecError | None) -> CospecError | None:
    """Extend the sheet by the draft. A row that is no distribution is a member's error; a drafter declines by it."""
    if isinstance(outcome, Draft):
        sheet.extend(outcome)
        return None
    if outcome is None and lane in sheet.members:
        return no_distribution(sheet.lanes[lane].name)
    if outcome is None:
        sheet.decline(lane)
    return outcome


def _draft(proposals: Sequence[Proposal], log_own: Tensor, log_q: Tensor) -> list[Draft]:
    """A token each, drawn from the lane's row. log_own, log_q: the lanes' own log-probabilities and those under the
    transforms, [proposals, vocab] each."""
    probs = probabilities(log_q)
    uniforms = [own.draws.uniform(own.frontier, Purpose.PROPOSE, own.epoch) for own, _ in proposals]
    return _drafts(proposals, draw(probs, uniforms), probs, log_own)


def _draft_coupled(proposals: Sequence[Proposal], log_own: Tensor, log_q: Tensor) -> list[Draft]:
    """The same by the noise that settles the position."""
    rows = zip(proposals, torch.split(log_q, 1), strict=True)
    tokens = noisy_argmax([(sheet, sheet.frontier, row) for (sheet, _), row in rows])
    return _drafts(proposals, torch.tensor(tokens, device=log_own.device), [None] * len(proposals), log_own)


def _drafts(
    proposals: Sequence[Proposal], tokens: Tensor, probs: Iterable[Tensor | None], log_own: Tensor
) -> list[Draft]:
    """tokens: [proposals, 1] ids."""
    of_tokens = log_own.gather(1, tokens).tolist()
    rows = zip(proposals, tokens.tolist(), probs, of_tokens, strict=True)
    return [
        Draft(token, lane, row, place=len(sheet.drafts), confidence=math.exp(log_p))
        for (sheet, lane), (token,), row, (log_p,) in rows
    ]

"""Drafting: the token at a sheet's frontier, from a lane's bonus row."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import CospecError
from .draws import Purpose, draw, probabilities
from .noise import noisy_argmax
from .rows import LogProbs, by_place, joined
from .select import HotRow, are_summed
from .sheet import Sheet
from .summed import LazyLogProbs, SummedLogProbs
from .target import Span, Unshaped, distributions, no_distribution
from .tokens import Draft

Proposal = tuple[Sheet, int]
"""A sheet, and the lane that proposes its next token."""


def propose(proposals: Sequence[Proposal]) -> list[CospecError | None]:
    """Each sheet drafts a token from its lane's bonus row, under the transforms of the target.

    A drafter whose row allows no token has none to propose, and declines. An error stands for a sequence that drafted
    nothing: its member's row is no distribution, or its transforms raised it. No sheet is changed if anything raises.
    """
    rows = [Span(sheet, sheet.frontier, sheet.frontier + 1).of(lane) for sheet, lane in proposals]
    outcomes: list[Draft | CospecError | None] = []
    drafting: dict[bool, dict[int, LogProbs]] = {False: {}, True: {}}
    log_qs = distributions(
        [
            # Where nothing shapes them, draws need logits alone: their softmax is that of log-probabilities.
            Unshaped(sheet, sheet.frontier, row, [lane], are_logits=not _is_drawn_as_it_is(sheet))
            for (sheet, lane), row in zip(proposals, rows, strict=True)
        ]
    )
    for i, ((sheet, _), log_q) in enumerate(zip(proposals, log_qs, strict=True)):
        outcomes.append(None if isinstance(log_q, LogProbs) else log_q)
        if isinstance(log_q, LogProbs):
            drafting[sheet.is_coupled][i] = log_q
    for are_coupled, alike in drafting.items():
        if alike:
            draft = _draft_coupled if are_coupled else _draft
            drafted = draft([proposals[i] for i in alike], [rows[i] for i in alike], [*alike.values()])
            for i, made in zip(alike, drafted, strict=True):
                outcomes[i] = made
    return [_applied(*proposal, outcome) for proposal, outcome in zip(proposals, outcomes, strict=True)]


def certain_draft(sheet: Sheet, lane: int, token: int) -> Draft:
    """The draft of a proposer that gives the token probability one."""
    ids, probs = (None, None) if sheet.is_coupled else (torch.tensor([token]), torch.ones(1))
    return Draft(token, lane, probs, place=len(sheet.drafts), confidence=1.0, ids=ids)


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


def _draft(proposals: Sequence[Proposal], own: Sequence[Tensor], log_qs: Sequence[LogProbs]) -> list[Draft]:
    """A token each, drawn from the lane's row. own: the lanes' own logits [1, vocab]. log_qs: log-probabilities under
    the transforms, of one position each."""
    tokens: list[int] = [0] * len(proposals)
    probs: list[Tensor | None] = [None] * len(proposals)
    summed: list[LazyLogProbs | None] = [None] * len(proposals)
    for i, ((sheet, _), log_q) in enumerate(zip(proposals, log_qs, strict=True)):
        if isinstance(log_q, LazyLogProbs):
            summed[i] = log_q
            (tokens[i],) = log_q.drawn([sheet.draws.uniform(sheet.frontier, Purpose.PROPOSE, sheet.epoch)])
    left = [i for i, log_q in enumerate(summed) if log_q is None]
    for places in by_place([log_qs[i] for i in left]) if left else ():
        same = [left[place] for place in places]
        rows = probabilities(joined([log_qs[i].values for i in same]))
        sheets = [proposals[i][0] for i in same]
        drawn = draw(rows, [each.draws.uniform(each.frontier, Purpose.PROPOSE, each.epoch) for each in sheets])
        for i, row, token in zip(same, rows.unbind(), log_qs[same[0]].tokens(drawn), strict=True):
            tokens[i], probs[i] = token, row
    ids = [log_q.ids_at(0) if own is None else None for log_q, own in zip(log_qs, summed, strict=True)]
    drafts = _drafts(proposals, tokens, probs, ids, _confidences(proposals, tokens, own, log_qs))
    return [replace(draft, log_probs=log_q) if log_q else draft for draft, log_q in zip(drafts, summed, strict=True)]


def _draft_coupled(proposals: Sequence[Proposal], own: Sequence[Tensor], log_qs: Sequence[LogProbs]) -> list[Draft]:
    """The same by the noise that settles the position."""
    items = [(sheet, sheet.frontier, log_q) for (sheet, _), log_q in zip(proposals, log_qs, strict=True)]
    nothing = [None] * len(proposals)
    tokens = [token for (token,) in noisy_argmax(items)]
    return _drafts(proposals, tokens, nothing, nothing, _confidences(proposals, tokens, own, log_qs))


def _drafts(
    proposals: Sequence[Proposal],
    tokens: Sequence[int],
    probs: Sequence[Tensor | None],
    ids: Sequence[Tensor | None],
    confidences: Sequence[float | None],
) -> list[Draft]:
    rows = zip(proposals, tokens, probs, ids, confidences, strict=True)
    return [
        Draft(token, lane, row, place=len(sheet.drafts), confidence=confidence, ids=columns)
        for (sheet, lane), token, row, columns, confidence in rows
    ]


def _is_drawn_as_it_is(sheet: Sheet) -> bool:
    """Whether drafts are drawn from a lane's own distribution."""
    return sheet.params.is_identity and not sheet.is_coupled


def _confidences(
    proposals: Sequence[Proposal], tokens: Sequence[int], own: Sequence[Tensor], log_qs: Sequence[LogProbs]
) -> list[float | None]:
    """The lanes' own probabilities of the tokens, where they are read: by the sums that these were drawn with, if they
    are the rows' own."""
    confidences: list[float | None] = [None] * len(proposals)
    whole = []
    for i, ((sheet, _), row, log_q) in enumerate(zip(proposals, own, log_qs, strict=True)):
        if not sheet.schedule.reads_confidence:
            continue
        if isinstance(log_q, SummedLogProbs) and sheet.params.is_identity:
            confidences[i] = log_q.rows[0].probability(tokens[i])
        elif are_summed(row):
            confidences[i] = HotRow.of(row[0].detach().numpy(), 1.0, is_summed=True).probability(tokens[i])
        else:
            whole.append(i)
    for places in by_place([LogProbs(own[i]) for i in whole]) if whole else ():
        same = [whole[place] for place in places]
        log_own = torch.log_softmax(joined([own[i] for i in same]), dim=-1)
        for i, log_p in zip(same, LogProbs(log_own).at([tokens[i] for i in same]), strict=True):
            confidences[i] = math.exp(log_p)
    return confidences

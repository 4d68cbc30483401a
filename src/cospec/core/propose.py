"""Drafting: the token at a sequence's frontier, from a lane's bonus row."""

import math
from collections.abc import Iterable
from collections.abc import Sequence as Values

import torch
from torch import Tensor

from ..errors import CospecError
from .drafts import Draft
from .noise import by_place, noisy_argmax
from .policy import is_coupled
from .sampling import Purpose, draw, probabilities
from .sheet import Sequence
from .target import Span, distributions, joined, no_distribution

Item = tuple[Sequence, int, str]
"""Who drafts: a sequence, the lane that proposes, and how its drafts are verified."""


def propose(items: Values[Item]) -> list[CospecError | None]:
    """Each sequence drafts a token from its lane's bonus row, under the transforms of the target.

    A drafter whose row allows no token has none to propose. An error stands for a sequence that drafted nothing: its
    member's row is no distribution, or its transforms raised it.
    """
    rows = [Span(sequence, sequence.frontier, sequence.frontier + 1).of(lane) for sequence, lane, _ in items]
    outcomes: list[CospecError | None] = [None] * len(items)
    for same in by_place(rows):
        log_own = torch.log_softmax(joined([rows[i] for i in same]), dim=-1)
        starts = [(items[i][0], items[i][0].frontier) for i in same]
        log_qs = distributions([(*start, log_own[row : row + 1]) for row, start in enumerate(starts)])
        drafting: dict[bool, dict[int, Tensor]] = {False: {}, True: {}}
        for row, (i, log_q) in enumerate(zip(same, log_qs, strict=True)):
            if isinstance(log_q, Tensor):
                drafting[is_coupled(items[i][2], items[i][0].params)][row] = log_q
            else:
                outcomes[i] = log_q or _without(items[i])
        for are_coupled, alike in drafting.items():
            if alike:
                own = log_own if len(alike) == len(same) else log_own[[*alike]]
                draft = _draft_coupled if are_coupled else _draft
                draft([items[same[row]] for row in alike], own, joined([*alike.values()]))
    return outcomes


def _without(item: Item) -> CospecError | None:
    """A row that is no distribution: a drafter's says that it has nothing to propose, a member's is an error."""
    sequence, lane, _ = item
    if lane in sequence.members:
        return no_distribution(sequence.lanes[lane].name)
    sequence.decline(lane)
    return None


def _draft(items: Values[Item], log_own: Tensor, log_q: Tensor) -> None:
    """Draw a token each, and let it stand as a draft. log_own, log_q: the lanes' own log-probabilities and those under
    the transforms, [items, vocab] each."""
    probs = probabilities(log_q)
    uniforms = [own.draws.uniform(own.frontier, Purpose.PROPOSE, own.epoch) for own, _, _ in items]
    _extend(items, draw(probs, uniforms), probs, log_own)


def _draft_coupled(items: Values[Item], log_own: Tensor, log_q: Tensor) -> None:
    """The same by the noise that settles the position."""
    rows = zip(items, torch.split(log_q, 1), strict=True)
    tokens = noisy_argmax([(sequence, sequence.frontier, row) for (sequence, _, _), row in rows])
    _extend(items, torch.tensor(tokens, device=log_own.device), [None] * len(items), log_own)


def _extend(items: Values[Item], tokens: Tensor, probs: Iterable[Tensor | None], log_own: Tensor) -> None:
    """tokens: [items, 1] ids."""
    of_tokens = log_own.gather(1, tokens).tolist()
    for (sequence, lane, _), (token,), row, (log_p,) in zip(items, tokens.tolist(), probs, of_tokens, strict=True):
        sequence.extend(Draft(token, lane, row, place=len(sequence.drafts), confidence=math.exp(log_p)))

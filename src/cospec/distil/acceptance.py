"""How much of what a drafter proposes would be accepted: 1 - TV(q, r), over all entries, on texts it never read."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..ensemble import Ensemble
from ..runner import Feed
from .pupil import Pupil
from .texts import Answer


@torch.no_grad()
def mean_acceptance(pupil: Pupil, ensemble: Ensemble, answers: Sequence[Answer], on_text: Callable[[], None]) -> float:
    """The probability that a token drafted behind one of the texts' tokens is accepted, on average over those that are
    proposed at all."""
    accepted, num_tokens = 0.0, 0
    for answer in answers:
        q = pupil.proposals(answer.text)
        if len(q):
            log_r = log_target(ensemble, answer.lane_prompts, answer.text.tokens)[-len(q) :].to(q.device)
            accepted += overlap(q, log_r.exp(), pupil.vocabulary).sum().item()
            num_tokens += len(q)
        on_text()
    return accepted / max(1, num_tokens)


def overlap(q: Tensor, r: Tensor, vocabulary: Sequence[int] | None) -> Tensor:
    """1 - TV(q, r) at each position, [n].

    q: [n, columns], of the tokens of `vocabulary`, None for all. r: [n, vocab].
    """
    reached = r if vocabulary is None else r[:, torch.tensor(vocabulary, device=r.device)]
    return torch.minimum(q.to(reached), reached).sum(-1)


@torch.no_grad()
def log_target(ensemble: Ensemble, lane_prompts: Sequence[Sequence[int]], tokens: Sequence[int]) -> Tensor:
    """log r before each of the tokens, [len(tokens), vocab], as members and combination give it."""
    rows = []
    # Drafters come behind the members.
    for runner, prompt in zip(ensemble.runners[: len(ensemble.member_names)], lane_prompts, strict=False):
        slot = runner.open()
        try:
            rows += runner.feed([Feed(slot, [*prompt, *tokens[:-1]], len(tokens))])
        finally:
            runner.close(slot)
    return ensemble.combination.log_probs(torch.stack([row[:, : ensemble.vocab_size].to(rows[0]) for row in rows]))

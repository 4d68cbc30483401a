"""How much of what a drafter proposes would be accepted: 1 - TV(q, r), over all entries, on texts it never read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ensemble import Ensemble
from ..runner import Feed
from ..runner.hf.trainable import FirstLayers
from .texts import WrittenText


@dataclass(frozen=True, kw_only=True)
class HeldOutText:
    """A text that is not trained on. lane_prompts: what each member reads before it, in token ids."""

    text: WrittenText
    lane_prompts: Sequence[tuple[int, ...]]


@torch.no_grad()
def mean_acceptance(
    layers: FirstLayers, ensemble: Ensemble, texts: Sequence[HeldOutText], on_text: Callable[[], None]
) -> float:
    """The probability that a token drafted behind one of the texts' tokens is accepted, on average over all tokens."""
    accepted, num_tokens = 0.0, 0
    for held_out in texts:
        text = held_out.text
        log_r = log_target(ensemble, held_out.lane_prompts, text.tokens).to(layers.device)
        fed = torch.tensor([[*text.prompt, *text.tokens[:-1]]], device=layers.device)
        q = layers.logits(layers.hidden(fed)[0, len(text.prompt) - 1 :]).softmax(-1)
        accepted += overlap(q, log_r.exp(), layers.vocabulary).sum().item()
        num_tokens += len(text.tokens)
        on_text()
    return accepted / num_tokens


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

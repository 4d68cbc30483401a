"""Exact shortcuts: positions whose token is certain before every member has a row there."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .combine import Combination, Contrastive, Mixture

# Floating-point margin: the best token must lead by this much more than the missing members could change.
MARGIN = 1e-5


def has_shortcut(combination: Combination, *, is_greedy: bool) -> bool:
    """Whether fewer than all members may ever settle a position. Members that hold half the weight or less can never
    fix the argmax. A subclass may combine in another way, so that it has none."""
    if type(combination) is Mixture:
        return is_greedy and 1 - min(combination.weights) > 0.5 + MARGIN
    return type(combination) is Contrastive and combination.plausibility is not None


def certain_tokens(combination: Combination, logits: Tensor, members: Sequence[int]) -> list[int]:
    """The tokens of the first positions, as many as the rows of these members alone decide.

    logits: [len(members), positions, vocab]. Valid only where `has_shortcut`.

    Mixture, greedy: with s the weighted sum of the rows at hand and rho the weight of the missing members, the argmax
    is certain once the best two entries of s differ by more than rho. Contrastive with plausibility b: once
    p_expert(2nd) < b p_expert(1st), one token is left.
    """
    if isinstance(combination, Mixture):
        is_certain, tokens = _of_mixture(combination, logits, members)
    elif isinstance(combination, Contrastive) and combination.plausibility is not None and 0 in members:
        is_certain, tokens = _of_expert(logits[members.index(0)], combination.plausibility)
    else:
        return []
    certain: list[bool] = is_certain.tolist()
    count = certain.index(False) if False in certain else len(certain)
    decided: list[int] = tokens[:count].tolist()
    return decided


def _of_mixture(combination: Mixture, logits: Tensor, members: Sequence[int]) -> tuple[Tensor, Tensor]:
    weights = [combination.weights[i] for i in members]
    column = torch.tensor(weights, dtype=logits.dtype, device=logits.device)[:, None, None]
    best = (torch.softmax(logits, dim=-1) * column).sum(0).topk(2, dim=-1)
    missing = 1 - sum(weights)
    return best.values[:, 0] - best.values[:, 1] > missing + MARGIN, best.indices[:, 0]


def _of_expert(expert: Tensor, plausibility: float) -> tuple[Tensor, Tensor]:
    # The same expression as in the combination's mask, so that both always agree.
    is_plausible = expert >= expert.amax(-1, keepdim=True) + math.log(plausibility)
    return is_plausible.sum(-1) == 1, expert.argmax(-1)

"""`power`: the power mean of the members' probabilities."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cospec import InvalidCombination


@dataclass(frozen=True)
class Power:
    """r proportional to (sum_i w_i p_i^alpha)^(1/alpha): a mixture at alpha 1, close to a product as alpha nears 0.

    Raises InvalidCombination for weights or an alpha that are not positive.
    """

    weights: tuple[float, ...]
    alpha: float = 0.5
    name = "power"

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value > 0 for value in (*self.weights, self.alpha)):
            raise InvalidCombination(f"power needs positive weights and alpha, got {self.weights} and {self.alpha}")

    def check(self, num_members: int) -> None:
        if len(self.weights) != num_members:
            raise InvalidCombination(f"power has {len(self.weights)} weights for {num_members} members; give one each")

    def log_probs(self, logits: Tensor) -> Tensor:
        log_p = torch.log_softmax(logits, dim=-1)
        log_w = torch.tensor(self.weights, dtype=log_p.dtype, device=log_p.device).log().view(-1, 1, 1)
        return torch.log_softmax(torch.logsumexp(self.alpha * log_p + log_w, dim=0) / self.alpha, dim=-1)

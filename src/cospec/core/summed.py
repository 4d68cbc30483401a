"""Rows of a large vocabulary of which no probabilities are made: draws, and what verifies drafts, read a row's sums and
a few of its logits.

What compiled loops sum is rounded in another way than torch's softmax. What lies within that rounding is decided by
plain torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .draws import draw, probabilities
from .gumbel import best_of_sums
from .rows import LogProbs
from .select import ROUNDING, HotRow, are_summed, kernels
from .verify import Drafted, Unsure

# How near a uniform number may come to the ratio of probabilities that it is compared with.
NEAR = 1e-4


class SummedLogProbs(LogProbs):
    """Log-probabilities of the whole vocabulary, as rows of logits and their sums; `values` are made when read.

    normalise: logits [positions, vocab] -> values.
    """

    def __init__(self, logits: Tensor, rows: Sequence[HotRow], normalise: Callable[[Tensor], Tensor]) -> None:
        self.__dict__.update(logits=logits, rows=rows, normalise=normalise)

    logits: Tensor
    rows: Sequence[HotRow]
    normalise: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, logits: Tensor, temperature: float, normalise: Callable[[Tensor], Tensor]) -> LogProbs:
        """Of logits that are drawn from at a temperature: with sums where these are had by compiled loops."""
        if not are_summed(logits):
            return LogProbs(normalise(logits))
        rows = [HotRow.of(row, temperature, is_summed=True) for row in logits.detach().numpy()]
        return cls(logits, rows, normalise)

    @cached_property
    def values(self) -> Tensor:
        return self.normalise(self.logits)

    @cached_property
    def probabilities(self) -> Tensor:
        """As plain torch has them."""
        return probabilities(self.values)

    def __len__(self) -> int:
        return len(self.rows)

    def between(self, start: int, stop: int) -> LogProbs:
        return SummedLogProbs(self.logits[start:stop], self.rows[start:stop], self.normalise)

    def drawn(self, uniforms: Sequence[float]) -> list[int]:
        """At each position the token with which the running sum passes that uniform of the total."""
        return [self._drawn(at, uniform) for at, uniform in enumerate(uniforms)]

    def noisy_best(self, keys: Sequence[int]) -> list[int]:
        """argmax log p + G at each position."""
        return [
            best_of_sums(key, row, partial(self._values_at, at))
            for at, (key, row) in enumerate(zip(keys, self.rows, strict=True))
        ]

    def _values_at(self, position: int) -> Tensor:
        return self.values[position]

    def _drawn(self, at: int, uniform: float) -> int:
        row = self.rows[at]
        own = (row.logits, row.highest, 1 / row.temperature, row.sums)
        token: int = kernels().drawn(*own, uniform * row.total, ROUNDING * row.total)
        return token if token >= 0 else draw(self.probabilities[at : at + 1], [uniform])[0]


class Residual(NamedTuple):
    """What a draft leaves of the target, max(p - q, 0) of scaled weights: the arguments of `kernels.left`, the sum of
    each block, the sum of all, and how far sums may be off."""

    rows: tuple[object, ...]
    sums: NDArray[np.float64]
    mass: float
    margin: float

    @classmethod
    def of(cls, a: float, target: HotRow, draft: HotRow) -> "Residual":
        """max(a p - q, 0)."""
        own = (target.logits, target.highest, 1 / target.temperature, a / target.total)
        rows = (*own, draft.logits, draft.highest, 1 / draft.temperature, 1 / draft.total)
        sums = np.empty_like(target.sums)
        # a is 1 to the bit, or a product of ratios, rounded as well.
        return cls(rows, sums, kernels().left(*rows, sums), ROUNDING if a == 1 else 4 * ROUNDING)


@dataclass(frozen=True, kw_only=True)
class SummedRuns(Drafted):
    """Runs by rows of logits and their sums, [total] each. Raises Unsure where these decide nothing."""

    targets: Sequence[HotRow]
    drafts: Sequence[HotRow]

    @classmethod
    def of(cls, tokens: Sequence[int], targets: Sequence[HotRow], drafts: Sequence[HotRow]) -> "SummedRuns":
        """A run of tokens."""
        p, q = ([row.probability(token) for row, token in zip(rows, tokens, strict=True)] for rows in (targets, drafts))
        return cls(lengths=[len(tokens)], p=p, q=q, targets=targets, drafts=drafts)

    def accepts(self, uniform: float, at: int) -> bool:
        return self.is_below(uniform, self.p[at] / self.q[at])

    def is_below(self, uniform: float, bound: float, scale: float = 1.0) -> bool:
        if abs(uniform - bound) <= NEAR * scale:
            raise Unsure
        return uniform < bound

    def residuals(self, reach: Mapping[int, float]) -> dict[int, Residual]:
        return {at: Residual.of(a, self.targets[at], self.drafts[at]) for at, a in reach.items()}

    def drawn(self, left: Mapping[int, Residual], uniforms: Sequence[float]) -> list[int]:
        tokens = [
            kernels().drawn_of_left(*own.rows, own.sums, uniform * own.mass, own.margin)
            for own, uniform in zip(left.values(), uniforms, strict=True)
        ]
        if min(tokens) < 0:
            raise Unsure
        return tokens

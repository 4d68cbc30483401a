"""Rows of which no log-probabilities are made: draws, and what verifies drafts, read a row's sums and a few of its
logits, or the weights of the tokens that sampling keeps.

What compiled loops sum is rounded in another way than torch's softmax. What lies within that rounding is decided by
plain torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .draws import draw, probabilities
from .gumbel import best_of_sums
from .rows import LogProbs, normalised, value_of
from .select import ROUNDING, HotRow, Kept, Row, are_summed, kernels
from .verify import Drafted, Unsure

# How near a uniform number may come to the ratio of probabilities that it is compared with.
NEAR = 1e-4
# How far sums may be off from those of columns, as torch normalises these: log p above -16 is rounded by up to 2^-21.
OF_COLUMNS = 4 * ROUNDING


class LazyLogProbs(LogProbs):
    """Log-probabilities whose `values` are made when they are read; rows: what draws and verdicts read instead."""

    rows: Sequence[Any]

    @cached_property
    def probabilities(self) -> Tensor:
        """As plain torch has them."""
        return probabilities(self.values)

    def __len__(self) -> int:
        return len(self.rows)

    def drawn(self, uniforms: Sequence[float]) -> list[int]:
        """At each position the token with which the running sum passes that uniform of the total."""
        return [self._drawn(at, uniform) for at, uniform in enumerate(uniforms)]

    def _drawn(self, at: int, uniform: float) -> int:
        token: int = self.rows[at].drawn(uniform)
        if token >= 0:
            return token
        columns = draw(self.probabilities[at : at + 1], [uniform])
        return self.between(at, at + 1).tokens(columns)[0]


class SummedLogProbs(LazyLogProbs):
    """Those of the whole vocabulary, as rows of logits and their sums.

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

    def between(self, start: int, stop: int) -> LogProbs:
        return SummedLogProbs(self.logits[start:stop], self.rows[start:stop], self.normalise)

    def noisy_best(self, keys: Sequence[int]) -> list[int]:
        """argmax log p + G at each position."""
        return [
            best_of_sums(key, row, partial(self._values_at, at))
            for at, (key, row) in enumerate(zip(keys, self.rows, strict=True))
        ]

    def _values_at(self, position: int) -> Tensor:
        return self.values[position]


@dataclass(frozen=True, eq=False)
class KeptRow:
    """One row of which few tokens are kept: ids, ascending, and values, their heated logits, NaN for a row without a
    maximum. [kept] each."""

    ids: NDArray[np.int64]
    values: Row

    @property
    def highest(self) -> float:
        """Whether it is finite tells whether there is a distribution."""
        return float(self.values[0])

    @cached_property
    def weighed(self) -> tuple[NDArray[np.float32], float]:
        """exp of the values [kept], and their sum."""
        weights = np.empty_like(self.values)
        return weights, kernels().weights_of_kept(self.values, weights)

    def probability(self, token: int) -> float:
        """Of any token, to 2 ROUNDING of it."""
        weights, total = self.weighed
        return value_of(weights, self.ids, token, 0.0) / total

    def drawn(self, uniform: float) -> int:
        """The same as that of HotRow."""
        weights, total = self.weighed
        return self.passed(weights, uniform * total, OF_COLUMNS * total)

    def passed(self, weights: NDArray[np.float32], wanted: float, margin: float) -> int:
        """The token with which the running sum of weights [kept] passes `wanted`; -1 within the margin of an edge."""
        column: int = kernels().drawn_of_kept(weights, wanted, margin)
        return int(self.ids[column]) if column >= 0 else -1


class KeptLogProbs(LazyLogProbs):
    """Those of the tokens that are kept at each position; `ids` are made when they are read, too."""

    def __init__(self, rows: Sequence[KeptRow]) -> None:
        self.__dict__.update(rows=rows)

    rows: Sequence[KeptRow]

    @classmethod
    def of(cls, kept: Sequence[Kept]) -> LogProbs:
        """Of each position what is kept and its heated logits: lazily where compiled loops read them."""
        if kernels() is None or kept[0][1].dtype != np.float32:
            return normalised(kept)
        return cls([KeptRow(*each) for each in kept])

    @cached_property
    def columns(self) -> LogProbs:
        return normalised([(row.ids, row.values) for row in self.rows])

    @property
    def values(self) -> Tensor:
        return self.columns.values

    @property
    def ids(self) -> Tensor | None:
        return self.columns.ids

    def between(self, start: int, stop: int) -> LogProbs:
        return KeptLogProbs(self.rows[start:stop])


class Residual(NamedTuple):
    """What a draft leaves of the target, max(a p - q, 0) of scaled weights: their sum, the token with which a running
    sum passes a number, or -1 within a margin, and that margin."""

    mass: float
    passed: Callable[[float, float], int]
    margin: float

    @classmethod
    def of(cls, a: float, target: "HotRow | KeptRow", draft: "HotRow | KeptRow") -> "Residual":
        """Of two rows of one kind."""
        # a is 1 to the bit, or a product of ratios, rounded as well.
        if isinstance(target, KeptRow) and isinstance(draft, KeptRow):
            (p, of_p), (q, of_q) = target.weighed, draft.weighed
            left = np.empty_like(p)
            mass = kernels().left_of_kept(target.ids, p, a / of_p, draft.ids, q, 1 / of_q, left)
            return cls(mass, partial(target.passed, left), OF_COLUMNS)
        assert isinstance(target, HotRow)
        assert isinstance(draft, HotRow)
        scaled = (target.logits, target.highest, 1 / target.temperature, a / target.total)
        rows = (*scaled, draft.logits, draft.highest, 1 / draft.temperature, 1 / draft.total)
        sums = np.empty_like(target.sums)
        mass = kernels().left(*rows, sums)
        return cls(mass, partial(kernels().drawn_of_left, *rows, sums), ROUNDING if a == 1 else 4 * ROUNDING)

    def drawn(self, uniform: float) -> int:
        """Raises Unsure within the margin."""
        token = self.passed(uniform * self.mass, self.margin)
        if token < 0:
            raise Unsure
        return token


@dataclass(frozen=True, kw_only=True)
class SummedRuns(Drafted):
    """Runs by rows and their sums, [total] each, all of one kind. Raises Unsure where these decide nothing."""

    targets: Sequence[HotRow | KeptRow]
    drafts: Sequence[HotRow | KeptRow]

    @classmethod
    def of(
        cls, tokens: Sequence[int], targets: Sequence[HotRow | KeptRow], drafts: Sequence[HotRow | KeptRow]
    ) -> "SummedRuns":
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
        return [own.drawn(uniform) for own, uniform in zip(left.values(), uniforms, strict=True)]

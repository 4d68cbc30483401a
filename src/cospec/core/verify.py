"""Verification: accept a prefix of a draft so that the output is distributed exactly as the target.

Letters as in the papers: p the target (r of the combination), q what the draft was drawn from.
Pure functions of tensors; the randomness is passed in.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import UnknownName
from ..names import VERIFICATIONS
from .draws import draw, probabilities
from .select import is_selected

# A residual's mass may be computed as so many times its bound, at most.
ROUNDED = 1 + 1e-4
LEAST_MASS = 1e-30


@dataclass(frozen=True)
class Verdict:
    """The first `accepted` drafts are accepted; `token` replaces the next one, and is None if all are accepted."""

    accepted: int
    token: int | None


class Unsure(Exception):
    """What decides lies within the rounding of how it was computed."""


@dataclass(frozen=True, kw_only=True)
class Drafted:
    """Concatenated runs of drafted tokens, whose target rows are complete; run k has lengths[k] tokens.

    p, q: [total] probabilities of the tokens themselves, by the target and by what each was drawn from.
    """

    lengths: Sequence[int]
    p: Sequence[float]
    q: Sequence[float]

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """Of each, where it begins and its length."""
        return list(zip(itertools.accumulate(self.lengths, initial=0), self.lengths, strict=False))

    @property
    def excludes(self) -> bool:
        """Whether residuals cost so much that those which decide nothing are left out."""
        return True

    def accepts(self, uniform: float, at: int) -> bool:
        """Whether the token stands by itself."""
        return uniform * self.q[at] < self.p[at]

    def is_below(self, uniform: float, bound: float, scale: float = 1.0) -> bool:
        """scale: by how much a small error in a, p, q or a mass is multiplied in the bound."""
        return uniform < bound

    def residuals(self, reach: Mapping[int, float]) -> Mapping[int, Any]:
        """Of the rows named, in ascending order, each with its a: what a draft leaves of the target,
        max(a p - q, 0), with its `mass`."""
        raise NotImplementedError

    def drawn(self, left: Mapping[int, Any], uniforms: Sequence[float]) -> list[int]:
        """A token from each of these residuals; from the target where the residual is empty."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Runs(Drafted):
    """Runs by rows of probabilities.

    log_target: [total, columns]. draft: of each token, the probabilities [columns] that it was drawn from, as a
    function, since few are read. ids: the tokens that columns stand for, as in `LogProbs`, [total, columns].
    """

    log_target: Tensor
    draft: Sequence[Callable[[], Tensor]]
    ids: Tensor | None = None

    @property
    def excludes(self) -> bool:
        return self.ids is not None or is_selected(self.log_target)

    def residuals(self, reach: Mapping[int, float]) -> dict[int, "Residual"]:
        if not reach:
            return {}
        rows = self.target([*reach])
        a = torch.tensor([*reach.values()], dtype=rows.dtype, device=rows.device)
        rows = rows.mul_(a[:, None]).sub_(_stacked([self.draft[at]() for at in reach])).clamp_(min=0)
        return {at: Residual(*each) for at, *each in zip(reach, rows.unbind(), rows.sum(-1).tolist(), strict=True)}

    def drawn(self, left: Mapping[int, "Residual"], uniforms: Sequence[float]) -> list[int]:
        # p and q may agree to the last bit and still reject by rounding: then p itself is the residual.
        rows = [own.weights if own.mass > 0 else self.target([at])[0] for at, own in left.items()]
        columns = draw(_stacked(rows), uniforms)
        if self.ids is None:
            return columns
        return [int(self.ids[at, column]) for at, column in zip(left, columns, strict=True)]

    def target(self, rows: Sequence[int]) -> Tensor:
        """p of the rows named, in ascending order: [rows, columns]."""
        # A single row, which is the common case, is not copied.
        if len(rows) == 1:
            return probabilities(self.log_target[rows[0] : rows[0] + 1])
        return probabilities(self.log_target if len(rows) == len(self.draft) else self.log_target[[*rows]])


class Residual(NamedTuple):
    """What a draft leaves of the target as weights [columns], and their sum."""

    weights: Tensor
    mass: float


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    """[rows, columns]; a single row is not copied."""
    return rows[0][None] if len(rows) == 1 else torch.stack([*rows])


Uniforms = Callable[[int, int], float]
"""Which run, and the position in it -> a number in (0, 1)."""


def verify_token(runs: Drafted, accept: Uniforms, replace: Uniforms) -> list[Verdict]:
    """Each token alone, up to the first rejection of its run (Leviathan et al. 2023, algorithm 1)."""
    accepted = []
    for run, (start, length) in enumerate(runs.spans):
        stands = (runs.accepts(accept(run, i), start + i) for i in range(length))
        accepted.append(sum(1 for _ in itertools.takewhile(bool, stands)))
    rejected = {
        start + count: 1.0 for (start, length), count in zip(runs.spans, accepted, strict=True) if count < length
    }
    return _replaced(runs, accepted, runs.residuals(rejected), replace)


def verify_block(runs: Drafted, accept: Uniforms, replace: Uniforms) -> list[Verdict]:
    """Each run as a whole (Sun et al. 2024, algorithm 2): never accepts fewer than token by token.

    a_i = min(1, a_{i-1} p(x_i) / q(x_i)); the residual after i tokens is max(a_i p - q, 0), its mass Z_i;
    h_i = Z_i / (Z_i + 1 - a_i), h_length = a_length. The largest i with u_i <= h_i stands, whatever came before.

    Z_i <= a_i, so that h_i <= a_i: of large vocabularies the residual after i tokens is computed where u_i is less than
    that alone, and the one after none where none stands. Of small ones all are, so that their masses are read at once.
    """
    reach = [_reach(runs.p[start : start + length], runs.q[start : start + length]) for start, length in runs.spans]
    may_stand = [_may_stand(runs, own, partial(accept, run)) for run, own in enumerate(reach)]
    # Row i of a run is the residual after i tokens, which decides about position i; the last has no draft after it.
    residuals = runs.residuals(
        {
            start + i: reach[run][i]
            for run, (start, length) in enumerate(runs.spans)
            for i in sorted(may_stand[run] if runs.excludes else {0, *may_stand[run]})
            if i < length
        }
    )
    accepted = []
    for run, (start, length) in enumerate(runs.spans):
        shares = {i: (residuals[start + i].mass, 1 - reach[run][i]) for i in may_stand[run] if i < length}
        stands = (i for i in may_stand[run] if i == length or _is_share(runs, accept(run, i - 1), *shares[i]))
        accepted.append(next(stands, 0))
    firsts = {
        start: 1.0
        for (start, _), count in zip(runs.spans, accepted, strict=True)
        if count == 0 and start not in residuals
    }
    return _replaced(runs, accepted, {**residuals, **runs.residuals(firsts)}, replace)


def _may_stand(runs: Drafted, reach: list[float], uniform: Callable[[int], float]) -> list[int]:
    """How many tokens of a run may stand, the largest number first: all, where they do, else what is not excluded."""
    length = len(reach) - 1
    if runs.is_below(uniform(length - 1), reach[length]):
        return [length]
    return [i for i in range(length - 1, 0, -1) if not runs.excludes or uniform(i - 1) < reach[i] * ROUNDED]


def _reach(p: Sequence[float], q: Sequence[float]) -> list[float]:
    """a_0 to a_length of a run."""
    ratios = (p_i / q_i for p_i, q_i in zip(p, q, strict=True))
    return list(itertools.accumulate(ratios, lambda a, ratio: min(1.0, a * ratio), initial=1.0))


def _replaced(runs: Drafted, accepted: list[int], residuals: Mapping[int, Any], replace: Uniforms) -> list[Verdict]:
    """What stands of each run, with a token drawn from the residual where that is not all."""
    # Where the first draft that does not stand is.
    ends = {run: start + accepted[run] for run, (start, length) in enumerate(runs.spans) if accepted[run] < length}
    tokens: dict[int, int] = {}
    if ends:
        left = {at: residuals[at] for at in ends.values()}
        drawn = runs.drawn(left, [replace(run, accepted[run]) for run in ends])
        tokens = dict(zip(ends, drawn, strict=True))
    return [Verdict(count, tokens.get(run)) for run, count in enumerate(accepted)]


def verify_coupled(tokens: list[int], settled: list[int]) -> Verdict:
    """A draft stands iff it is the token that the shared noise settles (Daliri et al. 2024).

    settled: argmax log r + G at each position of the run.
    """
    for i, (drafted, token) in enumerate(zip(tokens, settled, strict=True)):
        if drafted != token:
            return Verdict(i, token)
    return Verdict(len(tokens), None)


def _is_share(runs: Drafted, uniform: float, mass: float, rest: float) -> bool:
    """Whether a number is below the part that a mass has of itself and the rest."""
    return runs.is_below(uniform, mass / (mass + rest) if mass > 0 else 0.0, 1 / max(mass + rest, LEAST_MASS))


def check_verification(name: object) -> str:
    """`name` itself. Raises UnknownName."""
    if not isinstance(name, str) or name not in VERIFICATIONS:
        raise UnknownName("verification", name, VERIFICATIONS)
    return name


def is_coupled(verification: str, temperature: float) -> bool:
    """Whether a draft is accepted iff it is argmax of log r and the noise of its position.

    At temperature 0 there is no noise, target and drafts are each certain of one token, and every verification comes to
    this one, which needs no probabilities.
    """
    return verification == "coupled" or temperature == 0

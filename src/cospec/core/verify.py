"""Verification: accept a prefix of a draft so that the output is distributed exactly as the target.

Letters as in the papers: p the target (r of the combination), q what the draft was drawn from.
Pure functions of tensors; the randomness is passed in.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..errors import UnknownName
from .draws import draw


@dataclass(frozen=True)
class Verdict:
    """The first `accepted` drafts are accepted; `token` replaces the next one, and is None if all are accepted."""

    accepted: int
    token: int | None


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Concatenated runs of drafted tokens, whose target rows are complete; run k has lengths[k] tokens.

    tokens: [total] ids. target: [total, vocab] probabilities. draft: [total, vocab] probabilities that each token was
    drawn from; a lookup's rows are one-hot.
    """

    lengths: Sequence[int]
    tokens: Tensor
    target: Tensor
    draft: Tensor

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """Of each, where it begins and its length."""
        return list(zip(itertools.accumulate(self.lengths, initial=0), self.lengths, strict=False))

    def at_tokens(self) -> tuple[list[float], list[float]]:
        """p and q of each token."""
        columns = self.tokens[:, None]
        p, q = torch.cat([self.target.gather(1, columns), self.draft.gather(1, columns)], dim=1).T.tolist()
        return p, q


Uniforms = Callable[[int, int], float]
"""Which run, and the position in it -> a number in (0, 1)."""


def verify_token(runs: Runs, accept: Uniforms, replace: Uniforms) -> list[Verdict]:
    """Each token alone, up to the first rejection of its run (Leviathan et al. 2023, algorithm 1)."""
    p, q = runs.at_tokens()
    accepted = []
    for run, (start, length) in enumerate(runs.spans):
        stands = (accept(run, i) * q[start + i] < p[start + i] for i in range(length))
        accepted.append(sum(1 for _ in itertools.takewhile(bool, stands)))
    return _replaced(runs, accepted, lambda at: (runs.target[at] - runs.draft[at]).clamp(min=0), replace)


def verify_block(runs: Runs, accept: Uniforms, replace: Uniforms) -> list[Verdict]:
    """Each run as a whole (Sun et al. 2024, algorithm 2): never accepts fewer than token by token.

    a_i = min(1, a_{i-1} p(x_i) / q(x_i)); the residual after i tokens is max(a_i p - q, 0), its mass Z_i;
    h_i = Z_i / (Z_i + 1 - a_i), h_length = a_length. The largest i with u_i <= h_i stands, whatever came before.
    """
    p, q = runs.at_tokens()
    reach = [_reach(p[start : start + length], q[start : start + length]) for start, length in runs.spans]
    # Row i of a run is the residual after i tokens, which decides about position i; the last has no draft after it.
    a = torch.tensor([a for own in reach for a in own[:-1]], dtype=runs.target.dtype, device=runs.target.device)
    residuals = (a[:, None] * runs.target - runs.draft).clamp(min=0)
    masses = residuals.sum(-1).tolist()
    accepted = []
    for run, (start, length) in enumerate(runs.spans):
        shares = [_share(masses[start + i], 1 - reach[run][i]) for i in range(1, length)]
        stands = [accept(run, i) < h for i, h in enumerate([*shares, reach[run][length]])]
        accepted.append(max((i for i, does in enumerate(stands, start=1) if does), default=0))
    return _replaced(runs, accepted, lambda at: residuals[at], replace)


def _reach(p: list[float], q: list[float]) -> list[float]:
    """a_0 to a_length of a run."""
    ratios = (p_i / q_i for p_i, q_i in zip(p, q, strict=True))
    return list(itertools.accumulate(ratios, lambda a, ratio: min(1.0, a * ratio), initial=1.0))


def _replaced(
    runs: Runs, accepted: list[int], residuals: Callable[[Tensor], Tensor], replace: Uniforms
) -> list[Verdict]:
    """What stands of each run, with a token drawn from the residual where that is not all."""
    # Where the first draft that does not stand is.
    ends = {run: start + accepted[run] for run, (start, length) in enumerate(runs.spans) if accepted[run] < length}
    tokens: dict[int, int] = {}
    if ends:
        at = torch.tensor([*ends.values()], device=runs.target.device)
        rows = residuals(at)
        # p and q may agree to the last bit and still reject by rounding: then p itself is the residual.
        rows = torch.where(rows.sum(-1, keepdim=True) > 0, rows, runs.target[at])
        drawn = draw(rows, [replace(run, accepted[run]) for run in ends])
        tokens = dict(zip(ends, drawn[:, 0].tolist(), strict=True))
    return [Verdict(count, tokens.get(run)) for run, count in enumerate(accepted)]


def verify_coupled(tokens: list[int], settled: list[int]) -> Verdict:
    """A draft stands iff it is the token that the shared noise settles (Daliri et al. 2024).

    settled: argmax log r + G at each position of the run.
    """
    for i, (drafted, token) in enumerate(zip(tokens, settled, strict=True)):
        if drafted != token:
            return Verdict(i, token)
    return Verdict(len(tokens), None)


def _share(mass: float, rest: float) -> float:
    return mass / (mass + rest) if mass > 0 else 0.0


VERIFICATIONS = ("block", "coupled", "token")


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

"""Verification: accept a prefix of a draft so that the output is distributed exactly as the target.

Letters as in the papers: p the target (r of the combination), q what the draft was drawn from.
Pure functions of tensors; the randomness is passed in.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import UnknownName
from .sampling import draw


@dataclass(frozen=True)
class Verdict:
    """`accepted` drafted tokens stand; then `token`, drawn instead of the next one, or None if all stand."""

    accepted: int
    token: int | None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of drafted tokens whose rows of the target are complete.

    tokens: [length] ids. target: [length, vocab] probabilities. draft: [length, vocab] probabilities that
    each token was drawn from; a lookup's rows are one-hot.
    """

    tokens: Tensor
    target: Tensor
    draft: Tensor


Uniforms = Callable[[int], float]
"""Position in the run -> a number in (0, 1)."""


def verify_token(run: Run, accept: Uniforms, replace: Uniforms) -> Verdict:
    """Each token alone, up to the first rejection (Leviathan et al. 2023, algorithm 1)."""
    p, q = _at_tokens(run)
    for i, (p_i, q_i) in enumerate(zip(p.tolist(), q.tolist(), strict=True)):
        if accept(i) * q_i >= p_i:
            return Verdict(i, _draw_residual(run.target[i], run.draft[i], replace(i)))
    return Verdict(len(p), None)


def verify_block(run: Run, accept: Uniforms, replace: Uniforms) -> Verdict:
    """The run as a whole (Sun et al. 2024, algorithm 2): never accepts fewer than token by token.

    a_i = min(1, a_{i-1} p(x_i) / q(x_i)); the residual after i tokens is max(a_i p - q, 0), its mass Z_i;
    h_i = Z_i / (Z_i + 1 - a_i), h_length = a_length. The largest i with u_i <= h_i stands, whatever came before.
    """
    p, q = _at_tokens(run)
    length = len(p)
    reach = [1.0]
    for p_i, q_i in zip(p.tolist(), q.tolist(), strict=True):
        reach.append(min(1.0, reach[-1] * p_i / q_i))
    a = torch.tensor(reach[:-1], dtype=run.target.dtype, device=run.target.device)
    # Row i is the residual after i tokens, which decides about position i; the last has no draft after it.
    residuals = (a[:, None] * run.target - run.draft).clamp(min=0)
    masses = residuals.sum(-1).tolist()
    accepted = 0
    for i in range(1, length + 1):
        h = reach[i] if i == length else _share(masses[i], 1 - reach[i])
        if accept(i - 1) < h:
            accepted = i
    if accepted == length:
        return Verdict(length, None)
    if masses[accepted] <= 0:
        return Verdict(accepted, draw(run.target[accepted], replace(accepted)))
    return Verdict(accepted, draw(residuals[accepted], replace(accepted)))


def verify_coupled(tokens: list[int], settled: list[int]) -> Verdict:
    """A draft stands iff it is the token that the shared noise settles (Daliri et al. 2024).

    settled: argmax log r + G at each position of the run.
    """
    for i, (drafted, token) in enumerate(zip(tokens, settled, strict=True)):
        if drafted != token:
            return Verdict(i, token)
    return Verdict(len(tokens), None)


def _at_tokens(run: Run) -> tuple[Tensor, Tensor]:
    columns = run.tokens[:, None]
    return run.target.gather(1, columns)[:, 0], run.draft.gather(1, columns)[:, 0]


def _draw_residual(p: Tensor, q: Tensor, uniform: float) -> int:
    residual = (p - q).clamp(min=0)
    # p and q may agree to the last bit and still reject by rounding: then p itself is the residual.
    return draw(residual if residual.sum() > 0 else p, uniform)


def _share(mass: float, rest: float) -> float:
    return mass / (mass + rest) if mass > 0 else 0.0


VERIFICATIONS = ("block", "coupled", "token")


def check_verification(name: str) -> str:
    """`name` itself. Raises UnknownName."""
    if name not in VERIFICATIONS:
        raise UnknownName("verification", name, VERIFICATIONS)
    return name

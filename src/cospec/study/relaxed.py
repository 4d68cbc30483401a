"""Relaxed acceptance, where the criteria allow it: the target softened to λ q + (1 - λ) p, sampled exactly.

p is a single member and q the drafter. λ = 0 is speculative decoding of p; above it the target itself is the mixture,
so that what is lost is known by a formula, and the drafter is accepted more often.
"""

from ..core.combine import Mixture
from ..ensemble import Ensemble
from ..errors import InvalidPilot
from ..runner.lookup import LookupRunner
from .criteria import Softening
from .trials import Trial

RELAXED = "relaxed:"


def relaxed_trials(ensemble: Ensemble, softening: Softening | None) -> list[Trial]:
    """λ = 0, then each λ that is tried; none unless asked for. Raises InvalidPilot where there is nobody to draft."""
    if softening is None:
        return []
    target, drafter = pair(ensemble, softening)
    lambdas = sorted({0.0, *softening.lambdas})
    gamma = softening.gamma
    return [Trial(name(ensemble, softening, lam), _softened(ensemble, target, drafter, gamma, lam)) for lam in lambdas]


def name(ensemble: Ensemble, softening: Softening, lam: float) -> str:
    """The method's name in the measurements: other criteria may soften otherwise, and are not mixed up with these."""
    target, drafter = pair(ensemble, softening)
    return f"{RELAXED}{lam:g} {drafter} {softening.gamma} for {target}"


def pair(ensemble: Ensemble, softening: Softening) -> tuple[str, str]:
    """The names of p and q. Raises InvalidPilot or UnknownName."""
    target = softening.target or ensemble.member_names[0]
    ensemble.loaded(target)
    models = [each for each in ensemble.drafter_names if not isinstance(ensemble.loaded(each).model, LookupRunner)]
    others = [each for each in ensemble.member_names if each != target]
    drafter = softening.drafter or next(iter([*models, *others]), None)
    if drafter is None or drafter == target:
        raise InvalidPilot(
            "relaxed: there is no other model to soften the target with; give a small one as --proposer, "
            "or leave `relaxed` out of the criteria"
        )
    ensemble.loaded(drafter)
    return target, drafter


def _softened(ensemble: Ensemble, target: str, drafter: str, gamma: int, lam: float) -> Ensemble:
    p, q = ensemble.loaded(target), ensemble.loaded(drafter)
    if lam == 0:
        return Ensemble([p], schedule="fixed", gamma=gamma, proposer=q.model, max_sequences=ensemble.max_sequences)
    mixture = Mixture([1 - lam, lam])
    return Ensemble(
        [p, q], mixture, schedule="fixed", gamma=gamma, proposer=drafter, max_sequences=ensemble.max_sequences
    )

"""The lossy target, where the criteria allow it: a member softened by a drafter to λ q + (1 - λ) p, sampled exactly.

p is a single member and q the drafter. λ = 0 is speculative decoding of p. Above it the target itself is the mixture,
so that what is lost has a formula, and the drafter is accepted more often.
"""

from typing import Literal

from ..core.combine import Mixture
from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..errors import InvalidPilot
from ..runner.lookup import LookupRunner
from .criteria import Softening
from .equivalence import mean_score, paired_difference
from .intervals import mean_interval
from .ledger import Ledger, at
from .methods import RELAXED, PlannedMethod
from .pilot_settings import PilotSettings
from .results import Relaxed, RelaxedRow
from .speeds import faster, tokens_per_second


def relaxed_methods(ensemble: Ensemble, softening: Softening | None, params: SamplingParams) -> list[PlannedMethod]:
    """λ = 0, then each λ that is tried; none where no softening is asked for.

    Raises InvalidPilot where there is nobody to draft, or UnknownName.
    """
    if softening is None:
        return []
    target, drafter = pair(ensemble, softening)
    p, q = ensemble.loaded(target), ensemble.loaded(drafter)
    methods = []
    for lam in _lambdas(softening):
        mixture = Mixture([1 - lam, lam]) if lam else None
        softened = Ensemble(
            [p, q] if mixture else [p],
            mixture,
            schedule="fixed",
            gamma=softening.gamma,
            proposer=drafter if mixture else q.model,
            end_tokens=ensemble.end_tokens,
            max_sequences=ensemble.max_sequences,
        )
        methods.append(PlannedMethod(name=method_name(ensemble, softening, lam), ensemble=softened, params=params))
    return methods


def _lambdas(softening: Softening) -> list[float]:
    return sorted({0.0, *softening.lambdas})


def method_name(ensemble: Ensemble, softening: Softening, lam: float) -> str:
    """The method's name among measurements. It has all that decides its target: other criteria may soften otherwise."""
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


def relaxed(settings: PilotSettings, ledger: Ledger, ensemble: Ensemble) -> Relaxed | None:
    """Quality and speed over λ, and the largest λ that the margin allows; None where it was not measured."""
    softening = settings.criteria.relaxed
    if softening is None:
        return None
    target, drafter = pair(ensemble, softening)
    exact = method_name(ensemble, softening, 0.0)
    if not ledger.scores.get(exact) and not ledger.logprobs.get(exact):
        return None
    measure: Literal["score", "log-probability"] = "score" if ledger.scores.get(exact) else "log-probability"
    rows: list[RelaxedRow] = []
    for lam in _lambdas(softening):
        method = method_name(ensemble, softening, lam)
        if row := _row(lam, method, exact, ledger, softening.margin, is_score=measure == "score"):
            rows.append(row)
    chosen = 0.0
    for row in rows:
        if not row.is_within:
            break
        chosen = row.lam
    return Relaxed(
        target=target,
        drafter=drafter,
        gamma=softening.gamma,
        measure=measure,
        margin=softening.margin,
        rows=tuple(rows),
        chosen=chosen,
        distribution=f"{chosen:g} {drafter} + {1 - chosen:g} {target}" if chosen else target,
    )


def _row(lam: float, method: str, exact: str, ledger: Ledger, margin: float, *, is_score: bool) -> RelaxedRow | None:
    """The method's figures, paired with those of λ = 0, whose name is `exact`."""
    runs = ledger.runs(method, 1)
    own, reference = (_qualities(each, ledger, is_score=is_score) for each in (method, exact))
    # A reference text that either target makes impossible, or that has no token of its own, is left out of both.
    shared = [prompt for prompt in own if prompt in reference]
    if not runs or not shared:
        return None
    qualities, exact_ones = [own[prompt] for prompt in shared], [reference[prompt] for prompt in shared]
    difference = None
    if lam and is_score:
        difference = paired_difference(qualities, exact_ones)
    elif lam:
        difference = mean_interval([a - b for a, b in zip(qualities, exact_ones, strict=True)])
    proposers = ledger.counts[at(method, 1)].proposers.values()
    proposed = sum(drafts.proposed for drafts in proposers)
    return RelaxedRow(
        lam=lam,
        quality=mean_score(qualities) if is_score else mean_interval(qualities),
        difference=difference,
        is_within=difference is None or (difference.low is not None and difference.low >= -margin),
        acceptance=sum(drafts.accepted for drafts in proposers) / proposed if proposed else None,
        tokens_per_second=tokens_per_second(runs),
        over_exact=faster(ledger.measurements, method, exact) if lam else None,
    )


def _qualities(method: str, ledger: Ledger, *, is_score: bool) -> dict[str, float]:
    """Prompt -> its score, or the mean log-probability per token of its reference text."""
    if is_score:
        scores = ledger.scores.get(method, {})
        return {prompt: scores[prompt] for prompt in sorted(scores, key=int)}
    texts = ledger.logprobs.get(method, {})
    known = [prompt for prompt in sorted(texts, key=int) if texts[prompt].num_tokens]
    return {prompt: texts[prompt].total / texts[prompt].num_tokens for prompt in known}

"""Runs of the softened targets -> quality and speed over λ, and the largest λ that the margin allows."""

import statistics
from collections.abc import Sequence as Values
from typing import Literal

from ..ensemble import Ensemble
from .asked import Asked
from .equivalence import mean_score, paired_difference
from .intervals import studentized
from .ledger import Ledger, at
from .relaxed import name, pair
from .results import Interval, Relaxed, RelaxedRow
from .speeds import faster, tokens_per_second


def relaxed(asked: Asked, ledger: Ledger, ensemble: Ensemble) -> Relaxed | None:
    """None unless the criteria allow it and it was measured."""
    softening = asked.criteria.relaxed
    if softening is None:
        return None
    target, drafter = pair(ensemble, softening)
    exact = name(ensemble, softening, 0.0)
    if not ledger.scores.get(exact) and not ledger.logprobs.get(exact):
        return None
    lambdas = sorted({0.0, *softening.lambdas})
    rows = [_row(lam, name(ensemble, softening, lam), exact, ledger, softening.margin) for lam in lambdas]
    found = tuple(row for row in rows if row is not None)
    chosen = 0.0
    for row in found:
        if not row.is_within:
            break
        chosen = row.lam
    return Relaxed(
        target=target,
        drafter=drafter,
        gamma=softening.gamma,
        measure=_measure(exact, ledger),
        margin=softening.margin,
        rows=found,
        chosen=chosen,
        distribution=f"{chosen:g} {drafter} + {1 - chosen:g} {target}" if chosen else target,
    )


def _measure(exact: str, ledger: Ledger) -> Literal["score", "log-probability"]:
    return "score" if ledger.scores.get(exact) else "log-probability"


def _row(lam: float, method: str, exact: str, ledger: Ledger, margin: float) -> RelaxedRow | None:
    runs = [m for m in ledger.measurements if m.method == method]
    is_score = _measure(exact, ledger) == "score"
    own, reference = (_qualities(each, ledger, is_score=is_score) for each in (method, exact))
    # A text that one of the two makes impossible, or that has no token of its own, is left out of both.
    shared = [prompt for prompt in own if prompt in reference]
    if not runs or not shared:
        return None
    qualities, exact_ones = [own[prompt] for prompt in shared], [reference[prompt] for prompt in shared]
    difference = None
    if lam:
        minus = [a - b for a, b in zip(qualities, exact_ones, strict=True)]
        difference = paired_difference(qualities, exact_ones) if is_score else _mean(minus)
    counts = ledger.counts[at(method, 1)]
    proposed = sum(counts.get("proposed", {}).values())
    return RelaxedRow(
        lam=lam,
        quality=mean_score(qualities) if is_score else _mean(qualities),
        difference=difference,
        is_within=difference is None or (difference.low is not None and difference.low >= -margin),
        acceptance=sum(counts["accepted"].values()) / proposed if proposed else None,
        tokens_per_second=tokens_per_second(runs),
        over_exact=faster(ledger.measurements, method, exact) if lam else None,
    )


def _qualities(method: str, ledger: Ledger, *, is_score: bool) -> dict[str, float]:
    """A figure a prompt: its score, or the mean log-probability a token of its text."""
    if is_score:
        return dict(sorted(ledger.scores.get(method, {}).items(), key=_number))
    texts = sorted(ledger.logprobs.get(method, {}).items(), key=_number)
    return {prompt: text.total / text.num_tokens for prompt, text in texts if text.num_tokens}


def _number(item: tuple[str, object]) -> int:
    return int(item[0])


def _mean(values: Values[float]) -> Interval:
    low, high = studentized([*values]) or (None, None)
    return Interval(mean=statistics.fmean(values), low=low, high=high, num=len(values))

"""Checks, scores and perplexities -> the quality preserved against plain, and gained over the best single member."""

import math
import statistics
from collections.abc import Iterable, Sequence

from .equivalence import equivalence_p, mean_score, paired_difference
from .intervals import geometric_mean
from .ledger import Ledger
from .pilot_settings import PilotSettings
from .results import (
    ALL,
    PLAIN,
    SINGLE,
    Agreement,
    CheckRow,
    Interval,
    PerplexityRow,
    QualityGained,
    QualityKept,
    Reason,
    ScoreComparison,
    ScoreRow,
)

# Of all tests and intervals.
LEVEL = 0.05
ENSEMBLE = "ensemble"


def preserved(settings: PilotSettings, ledger: Ledger, num_checks: int) -> QualityKept:
    """Whether the candidate plan decodes what plain decodes. num_checks: of the whole self-test."""
    checks = tuple(ledger.checks[number] for number in sorted(ledger.checks, key=int))
    is_failed, is_whole = any(not check.is_passed for check in checks), len(checks) >= num_checks
    score = _comparison(settings, ledger)
    return QualityKept(
        checks=checks,
        is_exact=False if is_failed else True if is_whole and checks else None,
        greedy=_agreement([check for check in checks if check.name == "greedy text"]),
        score=score,
        score_reason="" if score else "no references",
    )


def _agreement(checks: Sequence[CheckRow]) -> Agreement | None:
    """Of all greedy checks together; None where there are none."""
    if not checks:
        return None
    differences = [each for check in checks for each in check.differences]
    num_ties = sum(each.is_tie for each in differences)
    num_texts = sum(check.num_texts or 0 for check in checks)
    return Agreement(
        num_texts=num_texts,
        num_equal=num_texts - len(differences),
        num_ties=num_ties,
        num_faults=len(differences) - num_ties,
    )


def _comparison(settings: PilotSettings, ledger: Ledger) -> ScoreComparison | None:
    """Scores of ours and plain on the prompts that both were scored on; None where there are none."""
    ours, plain = _paired_scores(ledger, settings.ours, PLAIN)
    if not ours:
        return None
    margin = settings.criteria.score_margin
    p_value = equivalence_p(ours, plain, margin) if margin is not None and len(ours) > 1 else None
    return ScoreComparison(
        ours=mean_score(ours).mean,
        plain=mean_score(plain).mean,
        difference=paired_difference(ours, plain),
        margin=margin,
        p_value=p_value,
        is_equivalent=None if p_value is None else p_value <= LEVEL,
    )


def _paired_scores(ledger: Ledger, one: str, other: str) -> tuple[list[float], list[float]]:
    """Scores of two methods on the prompts that both were scored on."""
    first, second = ledger.scores.get(one, {}), ledger.scores.get(other, {})
    shared = sorted(first.keys() & second.keys(), key=int)
    return [first[i] for i in shared], [second[i] for i in shared]


def gained(settings: PilotSettings, ledger: Ledger) -> QualityGained:
    """Whether the ensemble is better than its best single member."""
    scores = _score_rows(settings, ledger)
    best = _best_member({row.method: row.score.mean for row in scores if row.category == ALL})
    ours, theirs = _paired_scores(ledger, settings.ours, SINGLE + best) if best else ([], [])
    perplexities = _perplexity_rows(settings, ledger)
    lowest = _best_member({row.method: -row.perplexity for row in perplexities if row.category == ALL})
    ratio = _perplexity_gain(ledger, SINGLE + lowest) if lowest else None
    is_impossible = any(each.num_tokens == 0 for each in ledger.logprobs.get(PLAIN, {}).values())
    reason: Reason = "" if ratio else "target forbids a text" if is_impossible else "no texts"
    sources = ["references"] if any(question.continuation for question in settings.questions) else []
    sources += [str(settings.texts_source)] if settings.texts_source else []
    return QualityGained(
        scores=scores,
        best_by_score=best,
        score_gain=paired_difference(ours, theirs) if ours else None,
        score_reason="" if ours else "no references",
        perplexities=perplexities,
        best_by_perplexity=lowest,
        perplexity_gain=ratio,
        perplexity_reason=reason,
        texts_source=", ".join(sources) if perplexities else None,
    )


def _score_rows(settings: PilotSettings, ledger: Ledger) -> tuple[ScoreRow, ...]:
    return tuple(
        ScoreRow(method=method, category=category, score=mean_score([scores[i] for i in prompts]))
        for method, scores in ledger.scores.items()
        if method.startswith(SINGLE) or method in (PLAIN, settings.ours)
        for category, prompts in _by_category(settings, scores)
    )


def _perplexity_rows(settings: PilotSettings, ledger: Ledger) -> tuple[PerplexityRow, ...]:
    """Of the single members and the ensemble, over the texts that they do not make impossible."""
    rows = []
    for method, logprobs in ledger.logprobs.items():
        if not method.startswith(SINGLE) and method != PLAIN:
            continue
        possible = {i: each for i, each in logprobs.items() if each.num_tokens}
        for category, keys in _by_category(settings, possible):
            num_tokens = sum(possible[i].num_tokens for i in keys)
            row = PerplexityRow(
                method=ENSEMBLE if method == PLAIN else method,
                category=category,
                num_texts=len(keys),
                num_tokens=num_tokens,
                perplexity=math.exp(-sum(possible[i].total for i in keys) / num_tokens),
            )
            rows.append(row)
    return tuple(rows)


def _by_category(settings: PilotSettings, measured: Iterable[str]) -> list[tuple[str, list[str]]]:
    """All, then each category where there are several, with the keys of its prompts and texts that were measured."""
    keys = sorted(measured, key=int)
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(settings.category(key), []).append(key)
    own = list(groups.items()) if len(groups) > 1 else []
    return [(ALL, keys), *own] if keys else []


def _best_member(means: dict[str, float]) -> str | None:
    """Name of the single member with the highest figure. means: by method."""
    singles = {name.removeprefix(SINGLE): mean for name, mean in means.items() if name.startswith(SINGLE)}
    return max(singles, key=singles.__getitem__) if singles else None


def _perplexity_gain(ledger: Ledger, member: str) -> Interval | None:
    """The member's perplexity over the ensemble's; None where one of them makes a text impossible."""
    ours, theirs = ledger.logprobs.get(PLAIN, {}), ledger.logprobs.get(member, {})
    shared = sorted(ours.keys() & theirs.keys(), key=int)
    if not shared or any(ours[i].num_tokens == 0 or theirs[i].num_tokens == 0 for i in shared):
        return None
    tokens = statistics.fmean(ours[i].num_tokens for i in shared)
    # Each text's part in the difference of the mean log-probabilities per token; their mean is that difference.
    return geometric_mean([(ours[i].total - theirs[i].total) / tokens for i in shared])

"""Checks, scores and perplexities -> quality kept against plain, and gained over the best single member."""

import math
import statistics
from collections.abc import Iterable
from collections.abc import Sequence as Values

from .asked import Asked
from .equivalence import equivalence_p, mean_score, paired_difference
from .ledger import Ledger, TextLogprob
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
from .speeds import geometric_mean

LEVEL = 0.05
ENSEMBLE = "ensemble"


def kept(asked: Asked, ledger: Ledger) -> QualityKept:
    """Whether the fast way gives what plain gives."""
    checks = tuple(row for _, row in sorted(ledger.checks.items(), key=lambda item: int(item[0])))
    score = _comparison(asked, ledger)
    return QualityKept(
        checks=checks,
        is_exact=all(check.is_passed for check in checks) if checks else None,
        greedy=_agreement([check for check in checks if check.name == "greedy text"]),
        score=score,
        score_reason="" if score else "no references",
    )


def gained(asked: Asked, ledger: Ledger) -> QualityGained:
    """Whether the ensemble is better than its best single member."""
    scores = _score_rows(asked, ledger)
    best = _best({row.method: row.score.mean for row in scores if row.category == ALL})
    gain = _paired(ledger, asked.ours, SINGLE + best) if best else None
    rows = _perplexity_rows(asked, ledger)
    lowest = _best({row.method: -row.perplexity for row in rows if row.category == ALL})
    ratio = _perplexity_gain(ledger, SINGLE + lowest) if lowest else None
    is_forbidden = any(each.num_tokens == 0 for each in ledger.logprobs.get(PLAIN, {}).values())
    reason: Reason = "" if ratio else "target forbids a text" if is_forbidden else "no texts"
    return QualityGained(
        scores=scores,
        best_by_score=best,
        score_gain=gain,
        score_reason="" if gain else "no references",
        perplexities=rows,
        best_by_perplexity=lowest,
        perplexity_gain=ratio,
        perplexity_reason=reason,
        texts_source=_texts_source(asked) if rows else None,
    )


def _texts_source(asked: Asked) -> str:
    references = ["references"] if any(question.continuation for question in asked.questions) else []
    return ", ".join([*references, *([str(asked.texts_source)] if asked.texts_source else [])])


def _agreement(checks: Values[CheckRow]) -> Agreement | None:
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


def _comparison(asked: Asked, ledger: Ledger) -> ScoreComparison | None:
    ours, plain = _both(ledger.scores, asked.ours, PLAIN)
    if not ours:
        return None
    margin = asked.criteria.score_margin
    p_value = equivalence_p(ours, plain, margin) if margin is not None and len(ours) > 1 else None
    return ScoreComparison(
        ours=mean_score(ours).mean,
        plain=mean_score(plain).mean,
        difference=paired_difference(ours, plain),
        margin=margin,
        p_value=p_value,
        is_equivalent=None if p_value is None else p_value <= LEVEL,
    )


def _both(scores: dict[str, dict[str, float]], one: str, other: str) -> tuple[list[float], list[float]]:
    first, second = scores.get(one, {}), scores.get(other, {})
    shared = sorted(first.keys() & second.keys(), key=int)
    return [first[i] for i in shared], [second[i] for i in shared]


def _paired(ledger: Ledger, one: str, other: str) -> Interval | None:
    ours, theirs = _both(ledger.scores, one, other)
    return paired_difference(ours, theirs) if ours else None


def _score_rows(asked: Asked, ledger: Ledger) -> tuple[ScoreRow, ...]:
    rows = []
    for method, scores in ledger.scores.items():
        if not method.startswith(SINGLE) and method not in (PLAIN, asked.ours):
            continue
        for category, indices in _by_category(asked, scores):
            values = [scores[i] for i in indices]
            rows.append(ScoreRow(method=method, category=category, score=mean_score(values)))
    return tuple(rows)


def _perplexity_rows(asked: Asked, ledger: Ledger) -> tuple[PerplexityRow, ...]:
    rows = []
    for method, logprobs in ledger.logprobs.items():
        if not method.startswith(SINGLE) and method != PLAIN:
            continue
        known = {i: each for i, each in logprobs.items() if each.num_tokens}
        for category, indices in _by_category(asked, known):
            rows.append(_perplexity_row(method, category, [known[i] for i in indices]))
    return tuple(rows)


def _perplexity_row(method: str, category: str, texts: Values[TextLogprob]) -> PerplexityRow:
    num_tokens = sum(text.num_tokens for text in texts)
    return PerplexityRow(
        method=ENSEMBLE if method == PLAIN else method,
        category=category,
        num_texts=len(texts),
        num_tokens=num_tokens,
        perplexity=math.exp(-sum(text.total for text in texts) / num_tokens),
    )


def _by_category(asked: Asked, measured: Iterable[str]) -> list[tuple[str, list[str]]]:
    """All, then each category, with the prompts of it that were measured."""
    indices = sorted(measured, key=int)
    groups: dict[str, list[str]] = {}
    for i in indices:
        groups.setdefault(asked.category(i), []).append(i)
    own = list(groups.items()) if len(groups) > 1 else []
    return [(ALL, indices), *own] if indices else []


def _best(means: dict[str, float]) -> str | None:
    """The single member with the highest figure."""
    singles = {name.removeprefix(SINGLE): mean for name, mean in means.items() if name.startswith(SINGLE)}
    return max(singles, key=singles.__getitem__) if singles else None


def _perplexity_gain(ledger: Ledger, member: str) -> Interval | None:
    """The member's perplexity over the ensemble's; None where the target gives one of the texts no chance."""
    ours, theirs = ledger.logprobs.get(PLAIN, {}), ledger.logprobs.get(member, {})
    shared = sorted(ours.keys() & theirs.keys(), key=int)
    if not shared or any(ours[i].num_tokens == 0 or theirs[i].num_tokens == 0 for i in shared):
        return None
    tokens = statistics.fmean(ours[i].num_tokens for i in shared)
    # A text's part in the difference of the mean log-probabilities a token.
    parts = [(ours[i].total - theirs[i].total) / tokens for i in shared]
    return geometric_mean(parts)

"""Naive decoding in plain Python, straight from the formulas: nothing of cospec's arithmetic is used here.

A row is a list of numbers over the vocabulary; a model is a function from all tokens so far to a row of logits.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence

from cospec import SamplingParams

Row = list[float]
Text = tuple[int, ...]
Model = Callable[[Text], Sequence[float]]
Target = Callable[[list[Row]], Row]
Law = dict[Text, float]


def normal(weights: Sequence[float]) -> Row:
    total = sum(weights)
    return [weight / total for weight in weights]


def softmax(logits: Sequence[float]) -> Row:
    highest = max(logits)
    return normal([math.exp(logit - highest) for logit in logits])


def log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def mixture(*weights: float) -> Target:
    def target(rows: list[Row]) -> Row:
        members = [softmax(row) for row in rows]
        return [sum(w * p[x] for w, p in zip(weights, members, strict=True)) for x in range(len(rows[0]))]

    return target


def product(*weights: float) -> Target:
    def target(rows: list[Row]) -> Row:
        members = [softmax(row) for row in rows]
        return normal(
            [math.prod(p[x] ** w for w, p in zip(weights, members, strict=True)) for x in range(len(rows[0]))]
        )

    return target


def arithmetic(*weights: float) -> Target:
    def target(rows: list[Row]) -> Row:
        return softmax([sum(w * row[x] for w, row in zip(weights, rows, strict=True)) for x in range(len(rows[0]))])

    return target


def contrastive(mu: float, plausibility: float | None = None) -> Target:
    def target(rows: list[Row]) -> Row:
        expert, amateur = rows
        p = softmax(expert)
        scores = [e - mu * a for e, a in zip(expert, amateur, strict=True)]
        if plausibility is not None:
            scores = [s if p[x] >= plausibility * max(p) else -math.inf for x, s in enumerate(scores)]
        return softmax(scores)

    return target


def guided(scale: float) -> Target:
    def target(rows: list[Row]) -> Row:
        conditional, unconditional = rows
        return softmax([u + scale * (c - u) for c, u in zip(conditional, unconditional, strict=True)])

    return target


def largest(rows: list[Row]) -> Row:
    """r proportional to the largest of the members' probabilities."""
    return normal([max(column) for column in zip(*map(softmax, rows), strict=True)])


def level(rows: list[Row], weights: Sequence[float] | None) -> float:
    """The mean of the members' logsumexp, weighed by the size of their weights."""
    sizes = [abs(weight) for weight in weights or [1.0] * len(rows)]
    tops = [max(row) for row in rows]
    sums = [top + math.log(sum(math.exp(x - top) for x in row)) for row, top in zip(rows, tops, strict=True)]
    return sum(size * own for size, own in zip(sizes, sums, strict=True)) / sum(sizes)


def transformed(
    r: Row, params: SamplingParams, prompt: Text, output: Text, ends: Sequence[int], height: float = 0.0
) -> Row:
    """What a token is drawn from, by the rules of `SamplingParams` in their order. height: the level of the members'
    logits, over which the repetition penalty is taken."""
    vocab = range(len(r))
    scores = [log(p) + params.logit_bias.get(x, 0.0) for x, p in enumerate(r)]
    if len(output) < params.min_tokens:
        scores = [-math.inf if x in ends else scores[x] for x in vocab]
    if params.constraint is not None:
        allowed = params.constraint.allowed(output, len(output), 1)[0].tolist()
        scores = [scores[x] if allowed[x] else -math.inf for x in vocab]
    counts = Counter(output)
    if params.repetition_penalty != 1:
        scores = [score + height for score in scores]
    for x in vocab:
        if x in counts or x in prompt:
            scores[x] = (
                scores[x] / params.repetition_penalty if scores[x] > 0 else scores[x] * params.repetition_penalty
            )
        scores[x] -= params.frequency_penalty * counts[x] + params.presence_penalty * (x in counts)
    if params.temperature == 0:
        return [float(x == scores.index(max(scores))) for x in vocab]
    p = softmax([(score - max(scores)) / params.temperature for score in scores])
    if params.top_k:
        p = [p[x] if p[x] >= sorted(p, reverse=True)[: params.top_k][-1] else 0.0 for x in vocab]
    p = kept_by_top_p(normal(p), params.top_p)
    return normal([p[x] if p[x] >= params.min_p * max(p) else 0.0 for x in vocab])


def kept_by_top_p(p: Row, top_p: float) -> Row:
    """The most probable tokens up to the one at which their sum reaches `top_p`, ties to the lowest id."""
    kept, total = [0.0] * len(p), 0.0
    for x in sorted(range(len(p)), key=lambda x: (-p[x], x)):
        if total < top_p:
            kept[x] = p[x]
        total += p[x]
    return normal(kept)


def member_row(logits: Sequence[float], params: SamplingParams) -> Row:
    """A member's logits under member_temperature and member_top_p."""
    row = [logit / params.member_temperature for logit in logits]
    if params.member_top_p < 1:
        row = [log(p) for p in kept_by_top_p(softmax(row), params.member_top_p)]
    return row


def naive_law(
    models: Sequence[Model],
    prompts: Sequence[Text],
    target: Target,
    params: SamplingParams,
    ends: Sequence[int],
    weights: Sequence[float] | None = None,
) -> Law:
    """Each text's probability under one model after the other being fed every token. prompts: one a model; the first
    stands for the user's own. weights: the combination's, if it has some."""
    law: Law = {}

    def walk(output: Text, reached: float) -> None:
        if len(output) == params.max_tokens or (output and output[-1] in ends):
            law[output] = reached
            return
        raw = [[*model(prompt + output)] for model, prompt in zip(models, prompts, strict=True)]
        rows = [member_row(row, params) for row in raw]
        height = level(raw, weights)
        for token, p in enumerate(transformed(target(rows), params, prompts[0], output, ends, height)):
            if p > 0:
                walk((*output, token), reached * p)

    walk((), 1.0)
    return law


def distance(law: Law, other: Law) -> float:
    """Total variation."""
    return sum(abs(law.get(text, 0.0) - other.get(text, 0.0)) for text in law.keys() | other.keys()) / 2

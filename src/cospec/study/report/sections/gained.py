"""Whether the ensemble is better than its best single member."""

from collections.abc import Iterator

from ...results import ALL
from ..blocks import Block, Note, Plot, Section, Table, columns, texts
from ..numbers import amount, score, signed
from ..plots import Estimate, amounts, intervals, plain_number
from ..view import View


def gained(view: View) -> Section:
    say = view.say
    formulas = view.formulas("score", "gain", "perplexity", "perplexity gain")
    blocks = (Note(text=say("gained.says")), *_scores(view), *_perplexities(view), formulas)
    return Section(anchor="gained", title=say("gained.title"), blocks=blocks)


def _scores(view: View) -> Iterator[Block]:
    say, found = view.say, view.study.gained
    if not found.scores:
        yield Note(text=f"{say('gained.scores')}: {view.missing(found.score_reason)}", tone="unknown")
        return
    overall = [row for row in found.scores if row.category == ALL]
    title = say("gained.scores")
    drawn = [
        Estimate(
            label=view.method(row.method),
            mean=row.score.mean,
            low=row.score.low,
            high=row.score.high,
            written=view.interval(row.score, score),
            colour=view.colour(row.method),
        )
        for row in overall
    ]
    yield Plot(title=title, svg=intervals(title, drawn, 0, plain_number))
    yield Table(
        title=say("gained.scores table"),
        columns=columns(say("gained.scores columns"), num_words=2),
        rows=tuple(
            texts(
                view.method(row.method),
                view.category(row.category),
                view.interval(row.score, score),
                str(row.score.num),
            )
            for row in found.scores
        ),
    )
    if found.score_gain:
        values = {"name": found.best_by_score, "gain": view.interval(found.score_gain, signed)}
        yield Note(text=say("gained.score says", values))


def _perplexities(view: View) -> Iterator[Block]:
    say, found = view.say, view.study.gained
    if not found.perplexities:
        yield Note(text=f"{say('gained.perplexities')}: {view.missing(found.perplexity_reason)}", tone="unknown")
        return
    title = say("gained.perplexities")
    drawn = [
        Estimate(
            label=view.method(row.method),
            mean=row.perplexity,
            written=amount(row.perplexity),
            colour="c0" if row.method == "ensemble" else "neutral",
        )
        for row in found.perplexities
        if row.category == ALL
    ]
    yield Plot(title=title, svg=amounts(title, drawn))
    yield Table(
        title=say("gained.perplexities table"),
        columns=columns(say("gained.perplexities columns"), num_words=2),
        rows=tuple(
            texts(
                view.method(row.method),
                view.category(row.category),
                amount(row.perplexity),
                str(row.num_texts),
                f"{row.num_tokens:,}",
            )
            for row in found.perplexities
        ),
    )
    if found.perplexity_gain:
        values = {"name": found.best_by_perplexity, "gain": view.interval(found.perplexity_gain)}
        yield Note(text=say("gained.perplexity says", values))
    else:
        yield Note(text=view.missing(found.perplexity_reason), tone="unknown")

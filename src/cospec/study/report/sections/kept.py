"""Whether the fast way gives what plain gives: the self-test, greedy agreement, and scores."""

from collections.abc import Iterator

from ...results import CheckRow
from ..blocks import Block, Cell, Note, Section, Table, Tone, columns, texts
from ..numbers import p_value, score, signed
from ..view import View


def kept(view: View) -> Section:
    say = view.say
    formulas = view.formulas("coupled", "greedy", "sampled", "score", "equivalence")
    blocks = (Note(text=say("kept.says")), *_checks(view), *_greedy(view), *_score(view), formulas)
    return Section(anchor="kept", title=say("kept.title"), blocks=blocks)


def _checks(view: View) -> Iterator[Block]:
    say, checks = view.say, view.study.kept.checks
    if not checks:
        yield Note(text=f"{say('kept.checks')}: {view.missing()}", tone="unknown")
        return
    key = "kept.exact" if view.study.kept.is_exact else "kept.not exact"
    yield Note(text=say(key), tone="good" if view.study.kept.is_exact else "bad")
    yield Table(
        title=say("kept.checks"),
        columns=columns(say("kept.columns"), num_words=5),
        rows=tuple(_check(view, check) for check in checks),
    )
    yield Note(text=say("kept.checks says"))


def _check(view: View, check: CheckRow) -> tuple[Cell, ...]:
    say = view.say
    outcome: tuple[str, Tone] = ("word.passed", "good") if check.is_passed else ("word.failed", "bad")
    name = f"check.{check.name}"
    return (
        Cell(text=say(name) if name in say.table else check.name),
        Cell(text=check.schedule),
        Cell(text=check.verification),
        Cell(text=_found(view, check)),
        Cell(text=say(outcome[0]), below=check.error or "", tone=outcome[1]),
    )


def _found(view: View, check: CheckRow) -> str:
    say = view.say
    if check.p_value is not None and check.threshold is not None:
        values = {"p": p_value(check.p_value), "threshold": p_value(check.threshold), "num": check.num_samples}
        return say("kept.sampled", values)
    if check.num_texts is None:
        return "–"
    return say("kept.equal", {"equal": check.num_equal, "num": check.num_texts})


def _greedy(view: View) -> Iterator[Block]:
    say, found = view.say, view.study.kept.greedy
    if found is None:
        yield Note(text=f"{say('kept.greedy')}: {view.missing()}", tone="unknown")
        return
    values = {"num": found.num_texts, "equal": found.num_equal, "ties": found.num_ties, "faults": found.num_faults}
    yield Note(text=say("kept.greedy says", values))
    rows = [(check, each) for check in view.study.kept.checks for each in check.differences]
    if rows:
        yield Table(
            title=say("kept.differences"),
            columns=columns(say("kept.differences columns"), num_words=2),
            rows=tuple(
                texts(
                    each.prompt,
                    check.schedule,
                    str(each.position),
                    "∞" if each.gap is None else f"{each.gap:.2g}",
                    say("word.tie" if each.is_tie else "word.fault"),
                )
                for check, each in rows
            ),
        )


def _score(view: View) -> Iterator[Block]:
    say, found = view.say, view.study.kept.score
    if found is None:
        yield Note(text=f"{say('kept.score')}: {view.missing(view.study.kept.score_reason)}", tone="unknown")
        return
    yield Table(
        title=say("kept.score"),
        columns=columns(say("kept.score columns")),
        rows=(
            texts(
                view.study.settings.score or "–",
                score(found.ours),
                score(found.plain),
                view.interval(found.difference, signed),
                "–" if found.margin is None else f"± {found.margin:g}",
                "–" if found.p_value is None else p_value(found.p_value),
            ),
        ),
    )
    outcome = "unknown" if found.is_equivalent is None else "equivalent" if found.is_equivalent else "not shown"
    margin = "–" if found.margin is None else f"{found.margin:g}"
    yield Note(text=say(f"kept.{outcome}", {"margin": margin, "num": found.difference.num}))

"""Every sentence of the report reads well, in both languages, whatever was measured and whatever was not."""

import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from random import Random
from types import UnionType
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cospec.study.report import LANGUAGES, markdown, page
from cospec.study.results import (
    CheckRow,
    Environment,
    Interval,
    Measurement,
    QualityGained,
    QualityKept,
    Reason,
    Results,
    ScoreComparison,
    Settings,
    Verdict,
)

from ..properties import examples

EXAMPLE = Results.load(Path(__file__).parent / "data" / "example.json")
# Whoever reads these reads what a user typed, not what the report says.
AS_GIVEN = (Settings, Environment, Measurement)

FAULTS = {
    "a value that was not measured": r"\bNone\b|\bnan\b|\binf\b|\bnull\b|undefined",
    "a field that was not filled in": r"[{}]",
    "empty brackets": r"\(\s*\)|（\s*）|\[\s*\]",
    "nested brackets of one kind": r"\([^()]*\(|（[^（）]*（",
    "brackets behind a space that Japanese has none of": r"[\u3041-\u9fff] （",
    "a phrase twice in a row": r"\b([A-Za-z][A-Za-z %]{4,}?)[\s,:;(]+\1\b|([\u3041-\u9fff％%]{3,})[\s、：；はの（]*\2",
    "doubled or lonely punctuation": r"[,;:]\s*[.,;:)]|\.\.|。。|、、|：[：。、]|[、：]$| [,;.](?:\s|$)|^[,;.、。]",
}


def faults(text):
    """What is wrong with each line, but for tables' rows, whose cells are read one by one, and for formulas."""
    for line in text.splitlines():
        cells = re.split(r"(?<!\\)\||<br>", line) if line.startswith("|") else [line]
        for cell in cells:
            written = re.sub(r"\\(.)", r"\1", cell.replace("**", " ")).strip()
            if written.startswith(("- ", "<details>", "</details>", "#")) or set(written) <= set("-: "):
                continue
            for name, pattern in FAULTS.items():
                if re.search(pattern, written):
                    yield name, written


def tiles(text):
    """The lines of the four figures, which stand in a list."""
    return [line.removeprefix("- ") for line in text.split("\n## ")[1].splitlines() if line.startswith("- ")][:4]


def check(study, language):
    text = markdown(study, language)
    assert [*faults(text), *faults("\n".join(tiles(text)))] == []


def varied(value, hint, random):
    """A value of that type as another study might have it: less measured, for other reasons, with other outcomes."""
    if get_origin(hint) is UnionType and type(None) in get_args(hint):
        if value is None or random.random() < 0.3:
            return None
        (hint,) = (inner for inner in get_args(hint) if inner is not type(None))
    if get_origin(hint) is Literal and hint in (Reason,):
        return random.choice(get_args(hint)[1:])
    if get_origin(hint) is tuple and is_dataclass(get_args(hint)[0]):
        kept = [] if random.random() < 0.15 else [each for each in value if random.random() < 0.8]
        return tuple(varied(each, get_args(hint)[0], random) for each in kept)
    if is_dataclass(hint) and not isinstance(value, AS_GIVEN):
        hints = get_type_hints(hint)
        changes = {entry.name: varied(getattr(value, entry.name), hints[entry.name], random) for entry in fields(value)}
        return consistent(replace(value, **changes), value, random)
    return value


def consistent(made, was, random):
    """What no study has is mended: half an interval, a gain over a member without a name."""
    match made:
        case Interval() if made.low is None or made.high is None:
            return replace(made, low=None, high=None, num=2)
        case CheckRow():
            measured = ("num_texts", "num_equal", "num_samples", "p_value", "threshold")
            is_passed = random.random() < 0.8
            return replace(made, is_passed=is_passed, error=None, **{name: getattr(was, name) for name in measured})
        case ScoreComparison() if made.margin is None or made.p_value is None or made.is_equivalent is None:
            return replace(made, p_value=None, is_equivalent=None)
        case QualityGained():
            best = {name: getattr(was, name) for name in ("best_by_score", "best_by_perplexity")}
            score, perplexity = (gain if rows else None for gain, rows in _gains(made))
            return replace(made, score_gain=score, perplexity_gain=perplexity, **best)
        case QualityKept():
            return replace(made, is_exact=random.choice([True, False, None]) if made.checks else None)
        case Verdict():
            return replace(made, **_outcome(made, random))
    return made


def _gains(made):
    return (made.score_gain, made.scores), (made.perplexity_gain, made.perplexities)


def _outcome(made, random):
    rules = []
    for rule in made.rules:
        status = random.choice(["met", "not met", "not shown", "not measured"])
        reason = rule.reason if status == "not measured" else ""
        required = random.random() < 0.6
        # Nothing but exactness is judged without a value.
        value = 1.0 if status != "not measured" and rule.limit is not None and rule.value is None else rule.value
        rules.append(replace(rule, status=status, reason=reason, is_required=required, value=value))
    named = {
        name: tuple(rule.name for rule in rules if rule.is_required and rule.status == status)
        for name, status in (("blocking", "not met"), ("unshown", "not shown"), ("unmeasured", "not measured"))
    }
    up_to = random.choice([0, 1, 8])
    is_met = not any(named.values())
    decision = "go" if is_met else "go up to" if up_to else "no-go" if named["blocking"] else "not decided"
    return {"rules": tuple(rules), "decision": random.choice([decision, "not decided"]), "up_to": up_to, **named}


# A seed shrinks to nothing simpler.
@settings(max_examples=examples(12), deadline=None, phases=(Phase.explicit, Phase.generate))
@given(seed=st.integers(0, 2**32), language=st.sampled_from(LANGUAGES))
def test_every_sentence_reads_well_whatever_was_measured(seed, language):
    check(varied(EXAMPLE, Results, Random(seed)), language)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("reason", get_args(Reason)[1:])
def test_every_reason_fits_every_sentence_that_gives_one(language, reason):
    rules = tuple(replace(rule, status="not measured", reason=reason) for rule in EXAMPLE.verdict.rules)
    bare = tuple(replace(rule, value=None, low=None, high=None) for rule in rules)
    for given_rules in (rules, bare):
        gained = replace(
            EXAMPLE.gained, scores=(), score_gain=None, score_reason=reason, perplexities=(), perplexity_gain=None,
            perplexity_reason=reason,
        )  # fmt: skip
        study = replace(
            EXAMPLE,
            verdict=replace(EXAMPLE.verdict, rules=given_rules),
            kept=replace(EXAMPLE.kept, score=None, score_reason=reason),
            gained=gained,
            cost=replace(EXAMPLE.cost, saving_per_month=None, saving_reason=reason),
        )
        check(study, language)
        check(replace(study, kept=EXAMPLE.kept), language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_estimate_without_an_interval_is_said_once_to_have_none(language):
    few = Interval(mean=1.31, low=None, high=None, num=2)
    rows = tuple(replace(row, over_plain=row.over_plain and few) for row in EXAMPLE.speed.rows)
    gained = replace(EXAMPLE.gained, score_gain=few, perplexity_gain=few)
    study = replace(EXAMPLE, speed=replace(EXAMPLE.speed, rows=rows), gained=gained)
    check(study, language)
    none = {"en": "no interval", "ja": "信頼区間なし"}[language]
    lines = [line for line in markdown(study, language).splitlines() if none in line and not line.startswith("|")]
    assert len(lines) >= 3
    assert all(line.count(none) == 1 for line in lines)
    assert none in page(study, language)


@pytest.mark.parametrize("text", ["a (no interval (n = 2)).", "95 % 信頼区間は 信頼区間なし。", "It is None.", "x ()."])
def test_the_faults_that_were_there_are_found(text):
    assert [*faults(text)]

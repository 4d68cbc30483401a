"""Constraints that a grammar gives, against the same grammar read afresh."""

import math
import random

import pytest
import torch
from transformers import ByT5Tokenizer

from cospec import Ensemble, InvalidSampling, SamplingParams
from cospec.runner.hf.grammar import _num_shared
from cospec.runner.hf.tokenizer import HfTokenizer

from .laws.chi_square import is_from


@pytest.fixture(scope="module")
def ensemble():
    return Ensemble.load("demo:we")


def grammar(ensemble, kind="regex", source="([a-z]+ ){1,8}end", end_ids=None):
    return ensemble.tokenizer.grammar(kind, source, ensemble.vocab_size, end_ids or ensemble.runners[0].end_ids)


def test_drafts_that_come_and_go_leave_no_trace(ensemble):
    """Whatever was asked before, an answer is that of a constraint that was asked nothing."""
    read, draws = grammar(ensemble), random.Random(1)
    asked = read.constraint()
    output = ensemble.tokenizer.encode("some words that go on ")
    wrong = ensemble.tokenizer.encode("ONE")
    for _ in range(40):
        start = draws.randrange(len(output) + 1)
        drafts = draws.choice([wrong, output[start : start + 3], output[:2], []])
        count = draws.randrange(1, len(drafts) + 2)
        text = [*output[:start], *drafts]
        assert asked.allowed(text, start, count).equal(read.constraint().allowed(text, start, count))


def test_each_row_says_what_may_follow_its_prefix(ensemble):
    output = ensemble.tokenizer.encode("ab end")
    rows = grammar(ensemble, source="ab end").constraint().allowed(output, 0, len(output) + 1)
    for length, token in enumerate(output):
        assert rows[length, token]
    assert rows[-1].nonzero().flatten().tolist() == list(ensemble.tokenizer.end_ids)


def test_any_token_that_ends_a_text_may_end_it_where_the_grammar_does(ensemble):
    ends = [ensemble.tokenizer.end_ids[0], ensemble.tokenizer.encode("Z")[0]]
    output = ensemble.tokenizer.encode("ab")
    for source in ("ab", "ab+"):
        constraint = grammar(ensemble, source=source, end_ids=tuple(ends)).constraint()
        rows = constraint.allowed(output, 0, len(output) + 1)
        assert not rows[:-1, ends].any()
        assert rows[-1, ends].all()
        # An end that was drafted, and is gone again, leaves no trace.
        for end in ends:
            constraint.allowed([*output, end], len(output), 2)
            assert constraint.allowed(output, 0, len(output) + 1).equal(rows)


def test_texts_of_one_grammar_do_not_know_each_other(ensemble):
    read = grammar(ensemble)
    one, other = read.constraint(), read.constraint()
    output = ensemble.tokenizer.encode("some words ")
    one.allowed(output, len(output), 1)
    assert other.allowed([], 0, 1).equal(read.constraint().allowed([], 0, 1))


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("regex", "(("),
        ("regex", "\ud800"),
        ("json_schema", "{"),
        ("json_schema", {"type": "banana"}),
        ("lark", "start: nothing"),
    ],
)
def test_grammars_that_cannot_be_read_are_told_so(ensemble, kind, source):
    with pytest.raises(InvalidSampling, match=f"the {kind} cannot be followed"):
        grammar(ensemble, kind, source)


def test_a_schema_too_deep_to_be_written_is_told_so(ensemble):
    schema = {}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(InvalidSampling, match="cannot be followed"):
        grammar(ensemble, "json_schema", schema)


def test_white_space_does_not_fill_an_answer(ensemble):
    read = grammar(ensemble, "json_schema", {"type": "array", "items": {"type": "integer"}, "maxItems": 2})
    space = ensemble.tokenizer.encode(" ")[0]
    params = SamplingParams(max_tokens=40, temperature=0, logit_bias={space: 50}, constraint=read.constraint())
    (result,) = ensemble.generate("Some numbers:", params)
    assert result.finish_reason == "stop"
    assert "   " not in result.text


def test_two_lists_share_what_they_begin_with():
    draws = random.Random(0)
    for _ in range(300):
        a = [draws.randrange(2) for _ in range(draws.randrange(12))]
        b = [*a[: draws.randrange(len(a) + 1)], *(draws.randrange(2) for _ in range(draws.randrange(6)))]
        expected = 0
        while expected < min(len(a), len(b)) and a[expected] == b[expected]:
            expected += 1
        assert _num_shared(a, b) == expected


def test_a_constraint_is_a_mask_of_the_vocabulary(ensemble):
    allowed = grammar(ensemble).constraint().allowed([], 0, 1)
    assert allowed.shape == (1, ensemble.vocab_size)
    assert allowed.dtype == torch.bool


def test_a_grammar_that_turns_out_to_be_too_much_does_not_end_the_text(ensemble):
    """Its parser gives up behind a few letters, each of which may have come about in many ways."""
    names = [f"n{number}" for number in range(100)]
    rules = [f'{name}: {name} {name} | "a"' for name in names]
    constraint = grammar(ensemble, "lark", "\n".join([f"start: {' | '.join(names)}", *rules])).constraint()
    output = ensemble.tokenizer.encode("a" * 40)
    assert constraint.allowed(output, 0, 1)[0, output[0]]
    for _ in range(2):
        with pytest.raises(InvalidSampling, match=r"the grammar cannot be followed any further: .* items"):
            constraint.allowed(output, 0, len(output))


def test_a_tokenizer_that_cannot_be_read_is_told_so():
    tokenizer = HfTokenizer(ByT5Tokenizer())
    with pytest.raises(InvalidSampling, match="cannot be had with this tokenizer"):
        tokenizer.grammar("regex", "a", 384, tokenizer.end_ids)
    with pytest.raises(InvalidSampling, match="these members have none"):
        tokenizer.grammar("regex", "a", 384, ())


PROMPT = "Question: Tom has 3 boxes with 12 pencils each. Has he 36 pencils?\nAnswer:"
CHOICES = 'start: " He" | " 36" | " 3" | " 12"'


@pytest.mark.parametrize("plan", [{"schedule": "fixed", "gamma": 3}, {"schedule": "cascade", "gamma": [2, 3]}])
def test_a_grammar_gives_samples_of_r_within_it_whoever_drafts(ensemble, plan):
    """r, masked and made whole again token by token, and not what a drafter makes of it."""
    drafted = Ensemble.load("demo:we", proposer="demo:drafter", **plan)
    read = grammar(drafted, "lark", CHOICES)
    params = SamplingParams(max_tokens=8, seed=2, n=400, constraint=read.constraint())
    results = drafted.generate(PROMPT, params)
    assert {result.finish_reason for result in results} == {"stop"}
    assert 0 < sum(result.verified.accepted for result in results) < sum(result.verified.proposed for result in results)
    law = law_within(ensemble, read, ensemble.tokenizer.encode(PROMPT))
    assert sum(law.values()) == pytest.approx(1, abs=1e-4)
    assert is_from(law, [tuple(result.token_ids) for result in results])


def law_within(ensemble, read, prompt):
    """Output, with its end -> its probability."""
    law, reached = {}, {(): 1.0}
    while reached:
        params = SamplingParams(max_tokens=1, logprobs=ensemble.vocab_size)
        results = ensemble.generate([[*prompt, *text] for text in reached], params)
        longer = {}
        for (text, mass), result in zip(reached.items(), results, strict=True):
            allowed = read.constraint().allowed(text, len(text), 1)[0]
            weights = {token: math.exp(logprob) for token, logprob in result.logprobs[0].top if allowed[token]}
            for token, weight in weights.items():
                into = law if token in ensemble.tokenizer.end_ids else longer
                into[*text, token] = mass * weight / sum(weights.values())
        reached = longer
    return law

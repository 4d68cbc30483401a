"""Constraints that a grammar gives, against the same grammar read afresh."""

import random

import pytest
import torch

from cospec import Ensemble, InvalidSampling, SamplingParams
from cospec.runner.hf.grammar import _num_shared


@pytest.fixture(scope="module")
def ensemble():
    return Ensemble.load("demo:we")


def grammar(ensemble, kind="regex", source="([a-z]+ ){1,8}end"):
    return ensemble.tokenizer.grammar(kind, source, ensemble.vocab_size)


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

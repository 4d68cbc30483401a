"""An ensemble's own end tokens stand in the place of all that its members name."""

import pytest
import torch

from cospec import Ensemble, InvalidEnsemble, SamplingParams, demo
from cospec.files import ensemble_schema, read_settings
from cospec.identity import identity
from cospec.runner.hf.tokenizer import HfTokenizer
from cospec.toy import FunctionRunner

from .server.conftest import Served
from .text.tokenizers import byte_level, finished

WORDS = HfTokenizer(finished(byte_level()))
SIZE = len(WORDS.entries())
# Counts upwards, so that a text ends at the first of the ends behind its prompt.
UP = torch.eye(SIZE).roll(1, dims=1) * 50


def counting(end_ids=(9,), tokenizer=WORDS):
    return FunctionRunner(SIZE, lambda prefix: UP[prefix[-1]], end_ids=end_ids, tokenizer=tokenizer)


def decoded(ensemble, **params):
    (result,) = ensemble.generate([5], SamplingParams(max_tokens=12, temperature=0, **params))
    return list(result.token_ids), result.finish_reason


@pytest.mark.parametrize("schedule", ["plain", "alternate", "fixed", "auto"])
def test_they_replace_the_ends_of_the_members(schedule):
    members = [counting((8,)), counting((9,))]
    assert decoded(Ensemble(members, schedule=schedule)) == ([6, 7, 8], "stop")
    own = Ensemble(members, schedule=schedule, end_tokens=[12])
    assert own.end_ids == (12,)
    assert decoded(own) == ([6, 7, 8, 9, 10, 11, 12], "stop")
    assert decoded(own, ignore_eos=True)[1] == "length"
    assert decoded(own.with_plan(schedule="plain")) == decoded(own)
    assert own.alone(own.names[0]).end_ids == (12,)
    # As elsewhere, none ends a text before its shortest length.
    assert 12 not in decoded(own, min_tokens=8)[0]


def test_they_are_ids_or_what_the_vocabulary_spells():
    newline = WORDS.encode_bare("\n")
    given = ["<|im_end|>", "\n", "Ċ", 9, WORDS.entries().index("<|im_end|>")]
    assert Ensemble([counting()], end_tokens=given).end_ids == (4, *newline, 9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"end_tokens is \[\]; give a list of at least one token id"),
        ("<|im_end|>", "end_tokens is '<|im_end|>'; give a list"),
        ([True], r"end_tokens is \[True\]"),
        ([-1], r"end_tokens is \[-1\]"),
        ([""], r"end_tokens is \[''\]"),
        (
            ["<|none|>"],
            rf"end_tokens has '<\|none\|>', which is no entry of the vocabulary; give ids from 0 to {SIZE - 1}",
        ),
        ([SIZE], rf"end_tokens has {SIZE}, which is no entry of the vocabulary"),
    ],
)
def test_what_is_no_token_is_told(given, message):
    with pytest.raises(InvalidEnsemble, match=message):
        Ensemble([counting()], end_tokens=given)


def test_a_spelling_needs_a_tokenizer():
    with pytest.raises(InvalidEnsemble, match="'a', which needs a tokenizer"):
        Ensemble([counting(tokenizer=None)], end_tokens=["a"])
    assert Ensemble([counting(tokenizer=None)], end_tokens=[7]).end_ids == (7,)


def test_an_ensemble_file_has_them(tmp_path):
    path = tmp_path / "mine.yaml"
    model = demo.model_path("demo:drafter")
    path.write_text(f"members: ['{model}']\nend_tokens: [5, '<|end|>']\n")
    assert read_settings(path, {})["end_tokens"] == [5, "<|end|>"]
    assert read_settings(path, {"end_tokens": [7]})["end_tokens"] == [7]
    path.write_text(f"members: ['{model}']\nend_tokens: []\n")
    with pytest.raises(InvalidEnsemble, match=r"mine\.yaml: end_tokens: want a list that is not empty, got \[\]"):
        Ensemble.load(path)
    assert "end_tokens" in ensemble_schema()["properties"]


def test_results_of_other_ends_are_others():
    own = identity({"members": [counting()], "end_tokens": [3]})
    assert own != identity({"members": [counting()]})
    assert own["end_tokens"] == [3]


def test_a_server_ends_at_them():
    with Served(Ensemble([counting()], schedule="plain", end_tokens=[12])) as served, served.http() as client:
        body = {"prompt": [5], "max_tokens": 12, "temperature": 0}
        answer = client.post("/v1/completions", json=body).json()
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 7

"""A lookup drafter, as the engine sees it."""

import math

import pytest

from cospec import Ensemble, SamplingParams, demo, toy
from cospec.errors import UnknownName
from cospec.runner import Feed
from cospec.runner.lookup import LAG, LookupRunner

PHRASE = [5, 6, 7, 8, 9]


def proposed(row):
    return None if row.max() == -math.inf else int(row.argmax())


def test_it_proposes_what_followed_earlier_and_goes_on():
    runner = LookupRunner(50)
    slot = runner.open()
    (rows,) = runner.feed([Feed(slot, [*PHRASE, 10, 5, 6], 1)])
    assert proposed(rows[-1]) == 7
    for fed, following in ((7, 8), (8, 9)):
        (rows,) = runner.feed([Feed(slot, [fed], 1)])
        assert proposed(rows[-1]) == following


def test_it_proposes_nothing_it_has_not_seen():
    runner = LookupRunner(50)
    (rows,) = runner.feed([Feed(runner.open(), [1, 2, 3], 1)])
    assert proposed(rows[-1]) is None


def test_a_prompt_may_come_in_chunks():
    runner = LookupRunner(50)
    slot = runner.open()
    runner.feed([Feed(slot, [1, *PHRASE], 0)])
    (rows,) = runner.feed([Feed(slot, [10, 11, 12, 10], 1)])
    assert proposed(rows[-1]) == 11


def test_what_follows_the_prompt_is_learned_once_it_stands():
    runner = LookupRunner(90)
    slot = runner.open()
    runner.feed([Feed(slot, [1], 1)])
    (rows,) = runner.feed([Feed(slot, [*PHRASE, 6], 1)])
    assert proposed(rows[-1]) is None
    runner.feed([Feed(slot, list(range(20, 20 + LAG)), 1)])
    (rows,) = runner.feed([Feed(slot, [8], 1)])
    assert proposed(rows[-1]) == 9


def test_drafts_that_are_taken_back_are_forgotten():
    runner = LookupRunner(90)
    slot = runner.open()
    runner.feed([Feed(slot, PHRASE, 1)])
    runner.feed([Feed(slot, list(range(20, 20 + 2 * LAG)), 1)])
    runner.trim(slot, len(PHRASE))
    (rows,) = runner.feed([Feed(slot, [20], 1)])
    assert proposed(rows[-1]) is None


@pytest.mark.parametrize("remember", [True, False])
def test_finished_texts_are_looked_up_if_asked_for(remember):
    runner = LookupRunner(50, remember=remember)
    slot = runner.open()
    runner.feed([Feed(slot, PHRASE, 1)])
    runner.close(slot)
    (rows,) = runner.feed([Feed(runner.open(), [5, 6], 1)])
    assert proposed(rows[-1]) == (7 if remember else None)


@pytest.mark.parametrize("verification", ["token", "block", "coupled"])
@pytest.mark.parametrize("schedule", ["fixed", "cascade"])
def test_greedy_text_is_plains_with_lookup(schedule, verification):
    ensemble = Ensemble.load("demo:we", proposer="lookup", verification=verification)
    params = SamplingParams(max_tokens=40, temperature=0)
    prompts = demo.prompts()[:3]
    expected = ensemble.with_plan(schedule="plain", proposer=None).generate(prompts, params)
    given = ensemble.with_plan(schedule=schedule).generate(prompts, params)
    assert [result.token_ids for result in given] == [result.token_ids for result in expected]
    assert sum(result.proposers["lookup"].accepted for result in given if "lookup" in result.proposers) > 0


def test_a_text_that_repeats_itself_takes_few_calls():
    cycle = toy.FunctionRunner(8, lambda prefix: [30.0 * (token == (prefix[-1] + 1) % 8) for token in range(8)])
    ensemble = Ensemble([cycle], proposer="lookup", schedule="fixed", gamma=8)
    (result,) = ensemble.generate([[0]], SamplingParams(max_tokens=200, temperature=0, ignore_eos=True))
    assert result.token_ids == [(i + 1) % 8 for i in range(200)]
    assert result.members["member"].calls < 70


def test_an_unknown_proposer_is_told_of_lookup():
    with pytest.raises(UnknownName, match="lookup"):
        Ensemble.load("demo:we", proposer="lookupp")


def test_of_finished_texts_the_newer_are_remembered(monkeypatch):
    monkeypatch.setattr("cospec.runner.lookup.MOST_REMEMBERED", 10)
    runner = LookupRunner(90, remember=True)
    for first in (5, 20, 30, 40, 50, 60):
        slot = runner.open()
        runner.feed([Feed(slot, list(range(first, first + 5)), 1)])
        runner.close(slot)
    ((old,), (new,)) = runner.feed([Feed(runner.open(), [first, first + 1], 1) for first in (5, 60)])
    assert (proposed(old), proposed(new)) == (None, 62)

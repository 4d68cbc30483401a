"""A text with its seed is the same alone and in a batch, whatever befalls its neighbours."""

from contextlib import AbstractContextManager
from dataclasses import replace
from unittest import mock

import pytest

from cospec import SamplingParams
from cospec.core.draws import Draws
from cospec.core.settle import settle
from cospec.core.sheet import Sheet

from .cases import BLENDS, Case
from .naive import Text
from .test_laws import PLANS, case

OWN_PARAMS = [
    {"max_tokens": 3},
    {"max_tokens": 11, "temperature": 0.6},
    {"max_tokens": 1},
    {"max_tokens": 9, "top_p": 0.8, "member_temperature": 1.3},
    {"max_tokens": 8, "temperature": 0},
    {"max_tokens": 14, "repetition_penalty": 1.3, "ignore_eos": False},
    {"max_tokens": 6, "top_k": 2, "min_tokens": 5},
    {"max_tokens": 10, "logit_bias": {0: 1.0}},
]


def neighbours(plan: dict[str, object], verification: str) -> list[Case]:
    """Eight texts with prompts of unequal lengths and parameters of their own."""
    blend = BLENDS["mixture of 3"]
    return [
        case(replace(blend, prompts=((0, 1) * (1 + i),) * 3), plan, verification, **{"ignore_eos": True, **params})
        for i, params in enumerate(OWN_PARAMS)
    ]


def written(cases: list[Case]) -> list[Text]:
    """The texts of all of them in one engine."""
    engine = cases[0].engine()
    order = [engine.add(own.request(Draws(seed))) for seed, own in enumerate(cases)]
    texts = {}
    while engine.num_live:
        for event in engine.step():
            if event.result is not None:
                texts[event.id] = tuple(event.sheet.output)
    return [texts[id] for id in order]


def written_alone(cases: list[Case]) -> list[Text]:
    return [own.texts([seed])[0] for seed, own in enumerate(cases)]


@pytest.mark.parametrize("verification", ["token", "block", "coupled"])
@pytest.mark.parametrize("plan", PLANS)
def test_a_text_is_the_same_alone_and_among_others(plan, verification):
    cases = neighbours(PLANS[plan], verification)
    assert written(cases) == written_alone(cases)


def test_a_drawn_mixture_is_the_same_alone_and_among_others():
    plain = neighbours(PLANS["plain"], "token")
    cases = [own.but(schedule="mixture", params=SamplingParams(max_tokens=own.params.max_tokens)) for own in plain]
    assert written(cases) == written_alone(cases)


def test_texts_of_different_schedules_share_an_engine():
    plans = [plan for plan in PLANS.values() if plan.get("proposer") != "drafter"]
    each = [neighbours(plans[i % len(plans)], ("token", "block", "coupled")[i % 3])[i] for i in range(8)]
    assert written(each) == written_alone(each)


def whole_batch_rollback() -> AbstractContextManager[object]:
    """One sequence's rejection clears the drafts of those that are settled after it."""

    def faulty(sheets: list[Sheet]) -> list[object]:
        outcomes = []
        for index, sheet in enumerate(sheets):
            before = sheet.epoch
            outcomes += settle([sheet])
            for other in sheets[index + 1 :] if sheet.epoch > before else ():
                if other.drafts:
                    other.rollback()
        return outcomes

    return mock.patch("cospec.core.engine.settle", faulty)


@pytest.mark.parametrize("plan", ["fixed 3 by a drafter", "alternate 2 from the second"])
def test_a_rollback_of_the_whole_batch_would_be_noticed(plan):
    cases = neighbours(PLANS[plan], "token")
    with whole_batch_rollback():
        assert written(cases) != written_alone(cases)

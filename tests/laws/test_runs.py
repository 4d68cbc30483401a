"""The laws where a drafter proposes several tokens at once, and faults in that."""

import math
from dataclasses import replace

import pytest
import torch

from cospec import SamplingParams
from cospec.core import engine
from cospec.core.draws import Draws
from cospec.core.sheet import Sheet
from cospec.core.tokens import Draft

from .cases import BLENDS, TOKENS, Case
from .test_faults import NOTICEABLE, ROUNDING
from .test_laws import VERIFICATIONS, ZeroAfterOne

PLANS = {
    "fixed": {"schedule": "fixed"},
    "fixed 1": {"schedule": "fixed", "gamma": 1},
    "fixed 3": {"schedule": "fixed", "gamma": 3},
    "fixed, as far as pays": {"schedule": "fixed", "gamma": "auto"},
    "cascade 2, 2": {"schedule": "cascade", "gamma": (2, 2)},
    "cascade 3, 1": {"schedule": "cascade", "gamma": (3, 1)},
}


TRANSFORMS = {
    "temperature 0": {"temperature": 0},
    "top_p": {"top_p": 0.7},
    "repetition": {"repetition_penalty": 1.8},
    "bias": {"logit_bias": {0: 1.5, 1: -math.inf}},
    "min_tokens": {"min_tokens": 2},
    "constraint": {"constraint": ZeroAfterOne()},
}


def case(blend: str, plan: dict[str, object], verification: str, **params: object) -> Case:
    given = SamplingParams(max_tokens=TOKENS, **params)
    return Case(blend=BLENDS[blend], verification=verification, params=given, **{"proposer": "run drafter", **plan})


@pytest.mark.larger
@pytest.mark.parametrize("verification", VERIFICATIONS)
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("blend", ["mixture", "plausible"])
def test_runs_leave_the_law_as_it_is(blend, plan, verification):
    assert case(blend, PLANS[plan], verification).distance() < ROUNDING


@pytest.mark.parametrize("verification", VERIFICATIONS)
@pytest.mark.parametrize("plan", ["fixed 3", "cascade 2, 2"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_hold_where_runs_are_drafted(transform, plan, verification):
    assert case("mixture", PLANS[plan], verification, **TRANSFORMS[transform]).distance() < ROUNDING


@pytest.mark.parametrize("verification", ["token", "block"])
@pytest.mark.parametrize("proposer", ["run drafter", "each, one of runs"])
@pytest.mark.parametrize("gamma", [1, 3, "auto"])
def test_members_that_are_drawn_may_have_drafters_of_runs(gamma, proposer, verification):
    plan = {"schedule": "mixture", "gamma": gamma, "proposer": proposer}
    assert case("mixture", plan, verification).distance() < ROUNDING


@pytest.mark.parametrize("verification", ["token", "block"])
def test_the_law_notices_a_run_that_is_said_to_be_less_than_certain(verification, monkeypatch):
    def faulty(sheet: Sheet, lane: int, token: int) -> Draft:
        return replace(certain(sheet, lane, token), probs=torch.tensor([0.5]))

    certain = engine.certain_draft
    monkeypatch.setattr(engine, "certain_draft", faulty)
    assert case("mixture", PLANS["fixed 3"], verification).distance() > NOTICEABLE


def test_the_law_notices_a_run_kept_with_other_tokens(monkeypatch):
    def faulty(sheet: Sheet, lane: int, token: int) -> Draft:
        right = certain(sheet, lane, token)
        return replace(right, ids=None, probs=torch.full((3,), 1 / 3))

    certain = engine.certain_draft
    monkeypatch.setattr(engine, "certain_draft", faulty)
    assert case("mixture", PLANS["fixed 3"], "token").distance() > NOTICEABLE


def test_a_run_is_drafted_in_the_round_that_feeds_its_drafter():
    given = case("mixture", PLANS["fixed 3"], "block")
    running = given.engine()
    running.add(given.request(Draws(0)))
    (event,) = running.step()
    assert [draft.proposer for draft in event.sheet.drafts] == [2] * 2

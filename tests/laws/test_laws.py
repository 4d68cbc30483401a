"""What an engine writes has the law of naive decoding, for every combination, schedule, verification and transform.

By enumeration, exact up to rounding: see cospec/testing/enumeration.py.
"""

import math

import pytest
import torch

from cospec import Arithmetic, Mixture, Product, SamplingParams

from ..properties import crossed, longer
from . import naive
from .cases import BLENDS, FORBIDDING, TOKENS, Blend, Case

ROUNDING = 1e-9
VERIFICATIONS = ("token", "block", "coupled")

PLANS = {
    "plain": {"schedule": "plain"},
    "fixed 1 by the first member": {"schedule": "fixed", "gamma": 1, "proposer": 0},
    "fixed 2 by the second member": {"schedule": "fixed", "gamma": 2, "proposer": 1},
    "fixed 2 by a drafter": {"schedule": "fixed", "gamma": 2, "proposer": "drafter"},
    "fixed 3 by a drafter": {"schedule": "fixed", "gamma": 3, "proposer": "drafter"},
    "fixed by a drafter, as far as pays": {"schedule": "fixed", "gamma": "auto", "proposer": "drafter"},
    "fixed by the first member, as far as pays": {"schedule": "fixed", "gamma": "auto", "proposer": 0},
    "alternate 1": {"schedule": "alternate", "gamma": 1},
    "alternate 2 from the second": {"schedule": "alternate", "gamma": 2, "proposer": 1},
    "alternate 3": {"schedule": "alternate", "gamma": 3},
    "alternate 1, 3, 2, ...": {"schedule": "alternate", "gamma": "each"},
    "cascade 2, 2": {"schedule": "cascade", "gamma": (2, 2), "proposer": "drafter"},
    "cascade 1, 3 by the second": {"schedule": "cascade", "gamma": (1, 3), "proposer": "drafter", "first": 1},
    "cascade 3, 1": {"schedule": "cascade", "gamma": (3, 1), "proposer": "drafter"},
}


class ZeroAfterOne:
    """A constraint under which a 1 is followed by a 0."""

    def allowed(self, output, start, count):
        rows = torch.ones(count, 3, dtype=torch.bool)
        for row, mask in enumerate(rows):
            if start + row and output[start + row - 1] == 1:
                mask[1:] = False
        return rows


class NotAgain:
    """No token twice in a row, as a grammar might have it; three tokens and an end, so that some token always may."""

    def allowed(self, output, start, count):
        rows = torch.ones(count, 3, dtype=torch.bool)
        for row, mask in enumerate(rows):
            if start + row:
                mask[output[start + row - 1]] = False
        return rows


TRANSFORMS = {
    "temperature": {"temperature": 0.6},
    "heat": {"temperature": 2.0},
    "temperature 0": {"temperature": 0},
    "top_k": {"top_k": 2},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.3},
    "repetition": {"repetition_penalty": 1.8},
    "presence": {"presence_penalty": 1.1},
    "frequency": {"frequency_penalty": 0.9},
    "bias": {"logit_bias": {0: 1.5, 1: -math.inf}},
    "min_tokens": {"min_tokens": 2},
    "stop ids": {"stop_token_ids": [0], "min_tokens": 1},
    "no end": {"ignore_eos": True, "max_tokens": 3},
    "constraint": {"constraint": NotAgain()},
    "constraint at 0": {"constraint": NotAgain(), "temperature": 0},
    "member_temperature": {"member_temperature": 0.5},
    "all at once": {
        "temperature": 0.8,
        "top_p": 0.9,
        "min_p": 0.05,
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.2,
        "logit_bias": {0: 0.4},
        "min_tokens": 2,
        "member_temperature": 1.2,
    },
    "all at 0": {"temperature": 0, "repetition_penalty": 1.5, "presence_penalty": 0.7, "min_tokens": 3},
}


def case(blend: Blend, plan: dict[str, object], verification: str, *, vocab_size: int = 3, **params: object) -> Case:
    gammas = (1, 3, 2, 1, 2)[: blend.num_members]
    plan = {**plan, "gamma": gammas} if plan.get("gamma") == "each" else plan
    given = SamplingParams(**{"max_tokens": 4, **params})
    return Case(blend=blend, verification=verification, params=given, vocab_size=vocab_size, **plan)


def length(verification: str) -> int:
    """Coupled drafts leave most to enumerate: everyone who asks for a position's noise cuts it once more."""
    return TOKENS if verification == "coupled" else 4


@pytest.mark.parametrize("blend", BLENDS)
def test_none_of_them_all_but_writes_one_text(blend):
    """Of such a law nothing could be seen to be wrong."""
    assert max(case(BLENDS[blend], PLANS["plain"], "token").naive_law().values()) < 0.5


@crossed("blend, plan, verification", BLENDS, PLANS, VERIFICATIONS)
def test_the_text_has_the_law_of_naive_decoding(blend, plan, verification):
    max_tokens = length(verification) if blend == "mixture" else TOKENS
    assert case(BLENDS[blend], PLANS[plan], verification, max_tokens=max_tokens).distance() < ROUNDING


def drawn_ahead(blend: str) -> int:
    """Tokens of a text whose members are drawn ahead: each member more multiplies what may be drawn."""
    return 3 if BLENDS[blend].num_members <= 3 else longer(2, 3)


@crossed(
    "blend, gamma, verification",
    [name for name in BLENDS if name.startswith("mixture")],
    [None, 1, 2, 3, "auto"],
    ["token", "block"],
)
def test_a_mixture_may_be_drawn_member_by_member(blend, verification, gamma):
    drafting = {} if gamma is None else {"gamma": gamma, "proposer": "drafter"}
    plan = {"schedule": "mixture", **drafting}
    assert case(BLENDS[blend], plan, verification, max_tokens=drawn_ahead(blend)).distance() < ROUNDING


@crossed(
    "blend, gamma, verification", ["mixture", "mixture of 3", "mixture of 5"], [1, 2, 3, "auto"], ["token", "block"]
)
def test_the_members_that_are_drawn_may_have_drafters_of_their_own(blend, verification, gamma):
    plan = {"schedule": "mixture", "gamma": gamma, "proposer": "each"}
    assert case(BLENDS[blend], plan, verification, max_tokens=drawn_ahead(blend)).distance() < ROUNDING


@pytest.mark.parametrize("params", [{"member_temperature": 0.7}, {"member_top_p": 0.8}])
def test_a_mixture_is_drawn_from_members_as_they_are_shaped(params):
    assert case(BLENDS["mixture of 3"], {"schedule": "mixture"}, "token", **params).distance() < ROUNDING


# By the plan's name, the combination that it is tried with.
TRANSFORMED = {
    "plain": "mixture",
    "fixed 2 by the second member": "mixture",
    "alternate 2 from the second": "mixture",
    "fixed 3 by a drafter": "arithmetic",
    "alternate 1": "arithmetic",
    "cascade 2, 2": "mixture",
}


@crossed("transform, plan, verification", TRANSFORMS, TRANSFORMED, VERIFICATIONS)
def test_transforms_hold_under_every_schedule(transform, plan, verification):
    params = {"max_tokens": length(verification), **TRANSFORMS[transform]}
    assert case(BLENDS[TRANSFORMED[plan]], PLANS[plan], verification, **params).distance() < ROUNDING


@crossed(
    "transform, plan, verification",
    ["temperature", "temperature 0", "top_k", "top_p", "repetition", "presence"],
    ["plain", "fixed 2 by a drafter", "alternate 1", "cascade 2, 2"],
    VERIFICATIONS,
)
def test_where_the_expert_decides_alone_the_amateur_is_skipped(transform, plan, verification):
    params = {"max_tokens": length(verification), **TRANSFORMS[transform]}
    assert case(BLENDS["plausible, strictly"], PLANS[plan], verification, **params).distance() < ROUNDING


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("blend", ["uneven mixture", "mixture of 3", "mixture of 5"])
def test_an_argmax_is_settled_before_all_are_heard(blend, plan):
    for seed in range(8):
        chosen = BLENDS[blend].but_seeds(100 * seed)
        assert case(chosen, PLANS[plan], "token", temperature=0, max_tokens=4).distance() < ROUNDING


# A sum of logits with negative weights has no sense where a member_top_p left tokens out.
@crossed("blend, plan, verification", ["mixture", "product"], PLANS, VERIFICATIONS)
def test_members_may_be_shaped_by_top_p(blend, plan, verification):
    # Members this flat keep two tokens or three, so that some token is left to all.
    given = case(BLENDS[blend], PLANS[plan], verification, member_top_p=0.7, max_tokens=3).but(sharpness=0.3)
    assert given.distance() < ROUNDING


@pytest.mark.parametrize("verification", ["token", "block"])
@pytest.mark.parametrize("proposer", [0, "drafter"])
@pytest.mark.parametrize("blend", ["mixture", "contrastive"])
def test_blocks_of_four_drafts(blend, proposer, verification):
    plan = {"schedule": "fixed", "gamma": 4, "proposer": proposer}
    assert case(BLENDS[blend], plan, verification, max_tokens=5).distance() < ROUNDING


@pytest.mark.parametrize("verification", VERIFICATIONS)
@pytest.mark.parametrize("plan", ["fixed 2 by a drafter", "alternate 1, 3, 2, ..."])
@pytest.mark.parametrize("blend", ["mixture of 3", "plausible"])
def test_a_vocabulary_of_four(blend, plan, verification):
    assert case(BLENDS[blend], PLANS[plan], verification, vocab_size=4, max_tokens=3).distance() < ROUNDING


FORBIDDEN = {
    "mixture": (Mixture([0.5, 0.5]), naive.mixture(0.5, 0.5)),
    "product": (Product([0.5, 0.01]), naive.product(0.5, 0.01)),
}


@crossed("blend, plan, verification", FORBIDDEN, PLANS, VERIFICATIONS)
def test_members_may_forbid_tokens(blend, plan, verification):
    forbidding = Blend(*FORBIDDEN[blend], (FORBIDDING + 1, FORBIDDING + 3))
    assert case(forbidding, PLANS[plan], verification, max_tokens=3).distance() < ROUNDING


CUT_PLANS = {
    "fixed 3": {"schedule": "fixed", "gamma": 3, "proposer": "cut drafter"},
    "fixed, as far as pays": {"schedule": "fixed", "gamma": "auto", "proposer": "cut drafter"},
    "cascade 2, 2": {"schedule": "cascade", "gamma": (2, 2), "proposer": "cut drafter"},
}


@crossed(
    "blend, plan, transform, verification",
    ["mixture", "plausible"],
    CUT_PLANS,
    [None, "temperature 0", "top_p", "bias", "constraint"],
    VERIFICATIONS,
)
def test_a_drafter_of_a_cut_vocabulary_leaves_the_law_as_it_is(blend, plan, transform, verification):
    params = {"max_tokens": 3, **(TRANSFORMS[transform] if transform else {})}
    assert case(BLENDS[blend], CUT_PLANS[plan], verification, **params).distance() < ROUNDING


@pytest.mark.parametrize("verification", ["token", "block"])
@pytest.mark.parametrize("plan", [{"gamma": 2, "proposer": "cut drafter"}, {"gamma": 2, "proposer": "each, one cut"}])
def test_members_that_are_drawn_may_have_drafters_of_a_cut_vocabulary(plan, verification):
    given = case(BLENDS["mixture"], {"schedule": "mixture", **plan}, verification, max_tokens=3)
    assert given.distance() < ROUNDING


@pytest.mark.parametrize("verification", VERIFICATIONS)
def test_a_drafter_that_knows_no_allowed_token_declines(verification):
    # After a 1 only the token may follow that the drafter's head was cut of.
    for plan in CUT_PLANS.values():
        given = case(BLENDS["mixture"], plan, verification, constraint=ZeroAfterOne(), max_tokens=3)
        assert given.distance() < ROUNDING


@pytest.mark.parametrize("verification", VERIFICATIONS)
def test_members_that_are_sure_and_disagree(verification):
    blend = Blend(Arithmetic([1.0, 1.0, -1.0]), naive.arithmetic(1.0, 1.0, -1.0), (21, 22, 23))
    for plan in PLANS.values():
        assert case(blend, plan, verification, max_tokens=3).but(sharpness=6.0).distance() < ROUNDING

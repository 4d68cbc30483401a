"""Coupled verification: the text depends on the seed alone, whatever is drafted by whom."""

import pytest

from cospec.core.draws import Draws

from ..properties import is_fuzzing, longer
from .cases import BLENDS, Blend, Case
from .test_laws import PLANS, case

SEEDS = range(longer(8, 12))


def coupled(blend: str, plan: str, **params: object) -> Case:
    return case(BLENDS[blend], PLANS[plan], "coupled", vocab_size=4, max_tokens=10, **params)


BLENDED = ["mixture of 4", "arithmetic", "guided", "plausible"]
SHAPED = {
    "as it is": {},
    "shaped": {"ignore_eos": True, "temperature": 0.7, "top_p": 0.9},
    "penalised": {"repetition_penalty": 1.4, "frequency_penalty": 0.3},
    "temperature 0": {"ignore_eos": True, "temperature": 0, "presence_penalty": 0.4},
}


@pytest.mark.larger
@pytest.mark.parametrize("params", SHAPED)
@pytest.mark.parametrize("blend", BLENDED)
def test_the_text_is_that_of_plain_token_by_token(blend, params):
    # Of two blends that follow each other one has half of the plans, and the other the rest; so of the parameters.
    first = (BLENDED.index(blend) + [*SHAPED].index(params)) % 2
    plans = [*PLANS] if is_fuzzing() else [*PLANS][first::2]
    params = SHAPED[params]
    expected = coupled(blend, "plain", **params).texts(SEEDS)
    assert len(set(expected)) > 3 or params.get("temperature") == 0
    for plan in plans:
        assert coupled(blend, plan, **params).texts(SEEDS) == expected


@pytest.mark.parametrize("blend", ["mixture of 3", "plausible"])
@pytest.mark.parametrize("penalty", [1.0, 1.2])
@pytest.mark.parametrize("verification", ["token", "block", "coupled"])
def test_at_temperature_0_all_verifications_write_one_text(verification, penalty, blend):
    params = {"temperature": 0, "ignore_eos": True, "max_tokens": 12, "repetition_penalty": penalty}
    (expected,) = case(BLENDS[blend], PLANS["plain"], "token", vocab_size=4, **params).texts([0])
    for plan in PLANS.values():
        assert case(BLENDS[blend], plan, verification, vocab_size=4, **params).texts([0]) == [expected]


def test_members_that_agree_accept_all_of_each_others_drafts():
    twins = BLENDS["guided"]
    alike = case(twins, PLANS["fixed 1 by the first member"], "coupled", ignore_eos=True).but(
        blend=Blend(twins.combination, twins.target, twins.seeds, ((1,), (1,)))
    )
    engine = alike.engine()
    engine.add(alike.request(Draws(1)))
    while engine.num_live:
        (event,) = engine.step()
    assert all(tally.accepted == tally.proposed > 0 for tally in event.sheet.proposers.values())

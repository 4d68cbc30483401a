"""A text that the target forbids is impossible, which is a measurement; a member that fails is an error."""

import math

import pytest

from cospec import Contrastive, Ensemble, Member
from cospec.errors import InvalidPilot
from cospec.study.methods import PLAIN, PlannedMethod
from cospec.study.perplexity import ReferenceText, text_logprobs
from cospec.toy import FunctionRunner


def scored(pair, logits, prompt=None):
    """Of a likely and an unlikely text, by two members that always have these logits for the first tokens."""
    runner = FunctionRunner(pair.vocab_size, logits, tokenizer=pair.tokenizer)
    members = [Member(model=runner, name="expert"), Member(model=runner, name="amateur", prompt=prompt)]
    ensemble = Ensemble(members, Contrastive(mu=0.1, plausibility=0.5))
    method = PlannedMethod(name=PLAIN, ensemble=ensemble, params=None)
    return text_logprobs(method, [ReferenceText(before=[1], tokens=text) for text in ((5, 5), (5, 6))])


@pytest.mark.parametrize("prompt", [None, [2, 3]])
def test_a_text_that_the_target_forbids_is_impossible(pair, prompt):
    likely, impossible = scored(pair, lambda tokens: [9.0 if i == 5 else 0.0 for i in range(pair.vocab_size)], prompt)
    assert likely.num_tokens == 2
    assert likely.total == pytest.approx(0, abs=1e-6)
    assert (impossible.num_tokens, impossible.total) == (0, 0)


def test_a_member_that_fails_is_an_error(pair):
    with pytest.raises(InvalidPilot, match="plain failed with 2 concurrent sequences"):
        scored(pair, lambda tokens: [math.nan] * pair.vocab_size, [2, 3])

"""A draft's confidence is its proposer's own probability of it, whatever it was drawn from."""

import math

import pytest
import torch

from cospec import Ensemble, SamplingParams, toy
from cospec.core.sheet import Sheet

VOCAB = 7
SHAPED = [
    {},
    {"temperature": 0.5},
    {"temperature": 0},
    {"top_k": 3},
    {"repetition_penalty": 1.5},
    {"logit_bias": {2: 4.0}},
]


def row(prefix):
    """Logits that differ from position to position, and are not normalised."""
    return [5 + math.sin(3.0 * i + 1.7 * len(prefix)) + 0.3 * prefix[-1] * (i == 2) for i in range(VOCAB)]


@pytest.fixture
def drafted(monkeypatch):
    """Every draft, with what stood before it."""
    found, extend = [], Sheet.extend

    def noting(sheet, draft):
        before = [*sheet.prompt, *sheet.output, *(each.token for each in sheet.drafts)]
        found.append((before, draft))
        extend(sheet, draft)

    monkeypatch.setattr(Sheet, "extend", noting)
    return found


@pytest.mark.parametrize("verification", ["block", "coupled"])
@pytest.mark.parametrize("together", [SHAPED, [{}] * 3, SHAPED[:1], SHAPED[3:4]])
def test_it_is_the_proposers_own_probability(drafted, verification, together):
    members = [toy.FunctionRunner(VOCAB, row), toy.FunctionRunner(VOCAB, lambda prefix: row(prefix)[::-1])]
    ensemble = Ensemble(
        members,
        proposer=toy.FunctionRunner(VOCAB, row),
        schedule="fixed",
        gamma="auto",
        verification=verification,
        max_sequences=len(together),
    )
    params = [SamplingParams(max_tokens=20, seed=i, **own) for i, own in enumerate(together)]
    results = ensemble.generate([[0]] * len(together), params)
    assert not any(result.error for result in results)
    assert len(drafted) > 10 * len(together)
    for before, draft in drafted:
        own = torch.softmax(torch.tensor(row(before)), dim=-1)
        assert draft.confidence == pytest.approx(own[draft.token].item(), rel=1e-5)

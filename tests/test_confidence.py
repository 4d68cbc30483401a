"""A draft's confidence is its proposer's own probability of it, whatever it was drawn from, and what acceptance says of
it is learned from drafts of any."""

import math

import pytest
import torch

from cospec import Ensemble, SamplingParams, toy
from cospec.core.sheet import Sheet
from cospec.members import Member
from cospec.schedule.drafting import PRIOR, AcceptanceByConfidence
from cospec.schedule.fixed import Fixed

VOCAB = 7
# The prior's acceptance of a draft of middling confidence, at whose level bins begin.
PRIOR_MIDDLE = (0.55 + 1.0) / 2
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


def verified(num_drafts, is_accepted, confidences=(0.03, 0.45, 0.75)):
    """Acceptances by confidence after so many drafts at each of these."""
    by_confidence = AcceptanceByConfidence()
    for number in range(num_drafts):
        for confidence in confidences:
            by_confidence.add(confidence, is_accepted=is_accepted(number))
    return by_confidence


def test_before_any_draft_was_verified_acceptance_is_the_priors():
    assert AcceptanceByConfidence().values == pytest.approx(PRIOR)


@pytest.mark.parametrize("one_in", [2, 20])
def test_drafts_of_any_confidence_say_how_often_the_others_are_rejected(one_in):
    """A proposer that is hardly ever rejected may go on where none of its drafts was of such a confidence before; one
    that often is may not."""
    values = verified(60, lambda number: number % one_in != 0).values
    unseen = [i for i, edge in enumerate((0.02, 0.05, 0.1, 0.2, 0.3)) if edge > 0.05]
    for i in unseen:
        assert (values[i] > PRIOR[i] + 0.2) == (one_in == 20)
        assert (values[i] < PRIOR[i] - 0.05) == (one_in == 2)
    assert all(0 <= value <= 1 for value in verified(60, lambda number: False).values)


@pytest.mark.parametrize("acceptance", [0.7, 0.95])
def test_acceptances_begin_at_the_level_that_rows_showed(acceptance):
    by_confidence = AcceptanceByConfidence()
    by_confidence.expect(acceptance)
    level = (1 - acceptance) / (1 - PRIOR_MIDDLE)
    assert by_confidence.values == pytest.approx([1 - level * (1 - value) for value in PRIOR])


def test_a_proposer_that_rows_show_to_be_right_drafts_long_blocks_from_the_first_one_on():
    """None of its tokens is likely, and each is accepted: before any verdict the rows' 1 - TV says so."""
    logits = [math.log(1 / VOCAB)] * VOCAB
    members = [Member(model=toy.FunctionRunner(VOCAB, lambda prefix: logits), name=name) for name in "ab"]
    ensemble = Ensemble(members, schedule="auto")
    params = SamplingParams(max_tokens=40, ignore_eos=True)
    ensemble.generate([[0]], params)
    paced = [plan for plan in ensemble.planner_for(params).plans.values() if isinstance(plan, Fixed)]
    assert len(paced) == 2
    assert all(min(plan.stop.acceptances) > 0.95 for plan in paced)


def test_what_was_learned_of_confidence_is_restored():
    learned, other = verified(9, lambda number: number % 3 > 0), AcceptanceByConfidence()
    other.restore(learned.state())
    assert other.values == learned.values
    assert other.has_begun
    assert not AcceptanceByConfidence().has_begun
    with pytest.raises(ValueError, match="16"):
        other.restore(learned.state()[:-1])

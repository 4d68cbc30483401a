"""The repetition penalty is as strong on r as transformers' is on one model's logits."""

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from cospec import Arithmetic, Contrastive, Custom, Ensemble, Guided, Member, Mixture, Product, SamplingParams, toy
from cospec.core.combine import level
from cospec.core.transforms import History, shape

from .models import VOCAB, saved, tiny

PROMPT = [5, 9, 40, 9, 5, 77]
STRENGTHS = [0.8, 1.1, 1.5, 100.0]
TWINS = [Mixture([0.3, 0.7]), Product([0.5, 0.5]), Arithmetic([1.5, -0.5]), Guided(1.7), Custom(lambda log_p: log_p[0])]


def params(penalty: float) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, repetition_penalty=penalty)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(saved(tmp_path_factory.mktemp("penalty") / "model", "llama"))


def by_transformers(penalty: float) -> list[int]:
    output = tiny("llama").generate(
        torch.tensor([PROMPT]),
        attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
        max_new_tokens=24,
        do_sample=False,
        repetition_penalty=penalty,
        eos_token_id=VOCAB,  # none
        pad_token_id=0,
    )
    return output[0, len(PROMPT) :].tolist()


def test_one_member_writes_what_transformers_does_at_any_strength(folder):
    alone = Ensemble([folder], schedule="plain")
    texts = [alone.generate(PROMPT, params(penalty))[0].token_ids for penalty in STRENGTHS]
    assert texts == [by_transformers(penalty) for penalty in STRENGTHS]
    assert len(set(map(tuple, texts))) >= 3


@pytest.mark.parametrize("combine", TWINS, ids=lambda combine: combine.name)
def test_a_model_combined_with_itself_is_penalised_as_it_is_alone(combine, folder):
    twins = Ensemble([Member(model=folder, name=name) for name in "ab"], combine, schedule="alternate")
    for penalty in STRENGTHS:
        assert twins.generate(PROMPT, params(penalty))[0].token_ids == by_transformers(penalty)


@pytest.mark.parametrize("schedule", ["plain", "alternate", "auto"])
def test_a_penalty_of_100_keeps_a_mixture_from_what_its_members_are_sure_of(schedule):
    # Both are all but certain of the same token: its log r is nearly 0, of which 100 times is nearly 0 too.
    members = [toy.FunctionRunner(40, lambda prefix: [300.0 - 10 * token for token in range(40)]) for _ in range(2)]
    (result,) = Ensemble(members, schedule=schedule).generate([30], params(100.0))
    assert result.token_ids == [*range(24)]


def test_one_members_penalised_row_is_that_of_transformers():
    torch.manual_seed(0)
    logits = torch.randn(1, 1, 30, dtype=torch.float64) * 4 + 7
    history = History(prompt=(3, 4), output=(8, 8, 20), start=3)
    log_r = Mixture([1.0]).log_probs(logits)
    height = level(Mixture([1.0]), logits)
    for penalty in STRENGTHS:
        shaped = shape(log_r, SamplingParams(repetition_penalty=penalty), history, (), height)
        theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([[3, 4, 8, 8, 20]]), logits[0].clone())
        torch.testing.assert_close(shaped, torch.log_softmax(theirs, -1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("combine", "weights"),
    [
        (Mixture([0.9, 0.1]), (0.9, 0.1)),
        (Arithmetic([3.0, -1.0]), (0.75, 0.25)),
        (Contrastive(0.25), (0.8, 0.2)),
        (Guided(3.0), (0.6, 0.4)),
        (Arithmetic([0.0, 0.0]), (0.5, 0.5)),
        (Custom(lambda log_p: log_p[0]), (0.5, 0.5)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_level_of_a_combination_is_its_members_weighed_by_the_size_of_their_weights(combine, weights):
    logits = torch.randn(2, 3, 8, dtype=torch.float64)
    of_members = logits.exp().sum(-1).log()
    expected = weights[0] * of_members[0] + weights[1] * of_members[1]
    torch.testing.assert_close(level(combine, logits), expected[:, None])

"""An exported ensemble within vLLM decodes what cospec's own engine decodes."""

from dataclasses import replace

import pytest

from cospec import Arithmetic, Contrastive, Ensemble, Mixture, Product
from cospec.core.combine import make_combination

from . import members
from .members import assert_same, engine, ensemble_file, export, prompts

OF_TWO = [
    Mixture([0.7, 0.3]),
    Product([0.6, 0.4]),
    Arithmetic([1.5, -0.5]),
    Contrastive(0.4),
    Contrastive(0.4, 0.2),
    make_combination("custom", 2, fn="tests.vllm.members:largest"),
]
OF_THREE = [Mixture([0.5, 0.2, 0.3]), Product([0.6, 0.2, 0.4]), Arithmetic([1.0, 0.8, -0.8]), OF_TWO[-1]]


def combined(llm, combination, member_temperature=1.0, member_top_p=1.0):
    """The engine's members under another combination, without reading their weights again."""
    changes = {"member_temperature": member_temperature, "member_top_p": member_top_p}

    def change(model):
        model.described = replace(model.described, combination=combination, **changes)

    llm.apply_model(change)


@pytest.fixture(scope="module")
def two(tiny_models, tmp_path_factory):
    """Of unequal sizes and padding, with a drafter that pads in a third way."""
    folder = tmp_path_factory.mktemp("two")
    names = [tiny_models / name for name in ("wide", "small")]
    path = ensemble_file(folder, names, proposer=str(tiny_models / "drafter"), gamma=3)
    command = export(path, folder / "out")
    speculation = members.speculation_of(command)
    assert speculation["method"] == "draft_model"
    with engine(folder / "out", speculative_config=speculation) as llm:
        yield llm, Ensemble.load(path, schedule="plain", proposer=[], gamma=None)


@pytest.mark.parametrize("combination", OF_TWO, ids=repr)
def test_two_members_and_a_drafter_decode_the_same(two, combination):
    llm, ensemble = two
    combined(llm, combination)
    assert_same(llm, ensemble.with_combination(combination), prompts())
    assert members.count(llm, "vllm:spec_decode_num_draft_tokens") > 0


@pytest.fixture(scope="module")
def three(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    path = ensemble_file(folder, [tiny_models / name for name in ("small", "wide", "deep")])
    export(path, folder / "out")
    with engine(folder / "out") as llm:
        yield llm, Ensemble.load(path, schedule="plain")


@pytest.mark.parametrize("combination", OF_THREE, ids=repr)
def test_three_members_decode_the_same(three, combination):
    llm, ensemble = three
    combined(llm, combination)
    assert_same(llm, ensemble.with_combination(combination), prompts())


def test_members_are_heated_before_they_are_combined(three):
    llm, ensemble = three
    combined(llm, OF_THREE[0], member_temperature=0.6, member_top_p=0.9)
    own = {"member_temperature": 0.6, "member_top_p": 0.9}
    assert_same(llm, ensemble.with_combination(OF_THREE[0]), prompts(2), **own)


def test_a_prefix_that_is_cached_changes_nothing(three):
    llm, ensemble = three
    combined(llm, OF_THREE[0])
    shared = prompts(1, 100)[0]
    given = [[*shared, 5, token] for token in (7, 11)]
    before = members.count(llm, "vllm:prefix_cache_hits")
    for prompt in (*given, *given):
        assert_same(llm, ensemble.with_combination(OF_THREE[0]), [prompt], num_tokens=16)
        assert_texts_without_prompt_logprobs(llm, ensemble.with_combination(OF_THREE[0]), prompt)
    assert members.count(llm, "vllm:prefix_cache_hits") > before


def assert_texts_without_prompt_logprobs(llm, ensemble, prompt):
    """A request for prompt logprobs reads the whole prompt; this one takes what is cached."""
    from vllm import SamplingParams as TheirParams

    from cospec import SamplingParams

    (result,) = ensemble.generate([prompt], SamplingParams(max_tokens=16, temperature=0))
    (answer,) = llm.generate([{"prompt_token_ids": prompt}], TheirParams(max_tokens=16, temperature=0), use_tqdm=False)
    assert list(answer.outputs[0].token_ids) == result.token_ids


@pytest.mark.parametrize("names", [("sliding", "small"), ("small", "sliding")], ids="-".join)
def test_a_member_that_slides_keeps_its_window_to_itself(tiny_models, tmp_path, names):
    path = ensemble_file(tmp_path, [tiny_models / name for name in names])
    export(path, tmp_path / "out")
    with engine(tmp_path / "out") as llm:
        assert_same(llm, Ensemble.load(path, schedule="plain"), prompts())


def test_five_members_decode_the_same_and_one_of_them_twice(tiny_models, tmp_path):
    path = ensemble_file(tmp_path, [tiny_models / name for name in ("small", "small", "wide", "deep", "sliding")])
    export(path, tmp_path / "out")
    with engine(tmp_path / "out") as llm:
        assert_same(llm, Ensemble.load(path, schedule="plain"), prompts())

"""Sampling parameters, the transforms of log r against plain references, and the counter-based draws."""

import itertools
import math

import pytest
import torch

from cospec import InvalidSampling, SamplingParams
from cospec.core.draws import Draws, Purpose, draw
from cospec.core.gumbel import on_cpu, on_device
from cospec.core.transforms import History, shape, shape_members, warp

from .laws import naive

NAN, INF = math.nan, math.inf


def random_rows(num: int, vocab_size: int = 7, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(torch.randn(num, vocab_size, generator=generator, dtype=torch.float64) * 2, -1)


def shaped(log_r: torch.Tensor, *, prompt=(0, 1), output=(), start=0, ends=(6,), **params: object) -> torch.Tensor:
    history = History(prompt=prompt, output=output, start=start)
    return shape(log_r, SamplingParams(**params), history, ends).exp()


def reference(log_r: torch.Tensor, *, prompt=(0, 1), output=(), start=0, ends=(6,), **params: object) -> torch.Tensor:
    """Row by row and in plain Python, by `laws.naive`."""
    return torch.tensor(
        [
            naive.transformed(row.exp().tolist(), SamplingParams(**params), prompt, tuple(output[: start + j]), ends)
            for j, row in enumerate(log_r)
        ],
        dtype=torch.float64,
    )


TRANSFORMS = {
    "bias": [{"logit_bias": {2: 3.0, 4: -1.5}}, {"logit_bias": {0: -INF}}],
    "min_tokens": [{"min_tokens": 5}],
    "repetition": [{"repetition_penalty": 1.7}, {"repetition_penalty": 0.6}],
    "presence and frequency": [{"presence_penalty": 0.8}, {"frequency_penalty": 0.5}, {"presence_penalty": -1.0}],
    "temperature": [{"temperature": 0.3}, {"temperature": 4.0}, {"temperature": 0}],
    "top_k": [{"top_k": 1}, {"top_k": 3}, {"top_k": 7}, {"top_k": 1000}],
    "top_p": [{"top_p": 0.05}, {"top_p": 0.6}, {"top_p": 0.95}],
    "min_p": [{"min_p": 0.02}, {"min_p": 0.5}, {"min_p": 1.0}],
}
EACH = [(name, i) for name, given in TRANSFORMS.items() for i in range(len(given))]
TEXT = {"output": (2, 2, 5, 0, 3, 3), "start": 3}


@pytest.mark.parametrize(("name", "index"), EACH)
def test_each_transform_is_what_its_formula_says(name, index):
    log_r = random_rows(4)
    params = TRANSFORMS[name][index]
    torch.testing.assert_close(shaped(log_r, **TEXT, **params), reference(log_r, **TEXT, **params))


@pytest.mark.parametrize("names", list(itertools.combinations(TRANSFORMS, 2)), ids=" + ".join)
def test_transforms_come_in_their_order(names):
    params = {**TRANSFORMS[names[0]][0], **TRANSFORMS[names[1]][0]}
    log_r = random_rows(4, seed=3)
    torch.testing.assert_close(shaped(log_r, **TEXT, **params), reference(log_r, **TEXT, **params))


def test_all_transforms_at_once():
    params = {
        "logit_bias": {1: 2.0},
        "min_tokens": 4,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.2,
        "temperature": 0.7,
        "top_k": 5,
        "top_p": 0.9,
        "min_p": 0.05,
    }
    for seed in range(20):
        log_r = random_rows(4, seed=seed)
        torch.testing.assert_close(shaped(log_r, **TEXT, **params), reference(log_r, **TEXT, **params))


def test_the_order_matters_where_it_is_fixed():
    log_r = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    # Temperature before top-p: at 0.25 the first token alone reaches 0.8, and at 1 it does not.
    assert shaped(log_r, ends=(), prompt=(), temperature=0.25, top_p=0.8).tolist() == [[1.0, 0.0, 0.0]]
    # Top-k before top-p: of the two that are left, the first has 5/8 of the mass.
    assert shaped(log_r, ends=(), prompt=(), top_k=2, top_p=0.6).tolist() == [[1.0, 0.0, 0.0]]
    assert shaped(log_r, ends=(), prompt=(), top_p=0.6)[0, 1] > 0
    # Penalties before temperature.
    penalised = shaped(log_r, ends=(), prompt=(), output=(0,), start=1, presence_penalty=1.0, temperature=0.5)
    expected = torch.softmax((log_r - torch.tensor([1.0, 0, 0])) / 0.5, -1)
    torch.testing.assert_close(penalised, expected)


def test_rows_without_transforms_are_left_alone():
    log_r = random_rows(3)
    assert shape(log_r, SamplingParams(), History(prompt=(), output=(), start=0), (6,)) is log_r


def test_a_transform_leaves_its_input_alone():
    log_r = random_rows(3)
    before = log_r.clone()
    shaped(log_r, **TEXT, logit_bias={1: 1.0}, min_tokens=4, repetition_penalty=2.0, top_k=2, top_p=0.5, min_p=0.1)
    assert torch.equal(log_r, before)


def test_penalties_look_back_on_the_prompt_the_output_and_the_drafts_before_each_position():
    log_r = torch.full((3, 5), 0.2, dtype=torch.float64).log()
    # Token 4 in the prompt; 1 is settled; then 2 and 2 are drafted.
    given = {"prompt": (4,), "output": (1, 2, 2), "start": 1, "ends": ()}
    repeated = shaped(log_r, **given, repetition_penalty=2.0) < 0.2
    assert repeated.tolist() == [
        [False, True, False, False, True],
        [False, True, True, False, True],
        [False, True, True, False, True],
    ]
    counted = shaped(log_r, **given, frequency_penalty=1.0)
    relative = (counted / counted[:, :1]).log()
    torch.testing.assert_close(relative[0], torch.tensor([0.0, -1, 0, 0, 0]).double())
    torch.testing.assert_close(relative[1], torch.tensor([0.0, -1, -1, 0, 0]).double())
    torch.testing.assert_close(relative[2], torch.tensor([0.0, -1, -2, 0, 0]).double())
    present = shaped(log_r, **given, presence_penalty=1.0)
    torch.testing.assert_close((present / present[:, :1]).log()[2], torch.tensor([0.0, -1, -1, 0, 0]).double())


def test_a_block_of_rows_is_shaped_as_its_rows_are_one_by_one():
    log_r = random_rows(4, seed=9)
    output = (3, 1, 1, 5, 2, 0)
    params = {"repetition_penalty": 1.4, "frequency_penalty": 0.3, "top_p": 0.8, "min_tokens": 4, "temperature": 0.9}
    together = shaped(log_r, output=output, start=2, **params)
    for row in range(4):
        alone = shaped(log_r[row : row + 1], output=output[: 2 + row], start=2 + row, **params)
        torch.testing.assert_close(together[row : row + 1], alone)


def test_min_tokens_forbids_all_ends_up_to_that_many_tokens():
    log_r = random_rows(4)
    probs = shaped(log_r, output=(0, 0, 0, 0), start=1, ends=(2, 6), min_tokens=3)
    assert (probs[:2, [2, 6]] == 0).all()
    assert (probs[2:, [2, 6]] > 0).all()


def test_temperature_0_takes_the_lowest_id_of_the_best():
    log_r = torch.tensor([[0.2, 0.4, 0.4], [0.4, 0.2, 0.4]]).log()
    assert shaped(log_r, ends=(), prompt=(), temperature=0).tolist() == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("temperature", [1e-4, 1e-30, 1e-300, 5e-324])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tiny_temperature_is_almost_temperature_0(temperature, dtype):
    log_r = random_rows(5).to(dtype)
    probs = shaped(log_r, temperature=temperature)
    torch.testing.assert_close(probs, shaped(log_r, temperature=0), atol=1e-6, rtol=0)


def test_top_k_of_more_than_the_vocabulary_changes_nothing():
    log_r = random_rows(2)
    torch.testing.assert_close(shaped(log_r, top_k=10**9), log_r.exp())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_top_p_that_rounds_to_0_keeps_the_most_probable_token(dtype):
    log_r = torch.log_softmax(torch.tensor([[0.0, 2.0, 1.0]], dtype=dtype), dim=-1)
    for params in ({"top_p": 1e-50}, {"top_p": 5e-324}):
        assert warp(log_r, SamplingParams(**params)).exp().tolist() == [[0.0, 1.0, 0.0]]
    assert shape_members(log_r, SamplingParams(member_top_p=1e-50)).argmax() == 1
    assert shape_members(log_r, SamplingParams(member_top_p=1e-50)).isfinite().sum() == 1


def test_top_p_keeps_the_token_that_reaches_it_and_the_lower_id_of_equals():
    log_r = torch.tensor([[0.25, 0.25, 0.25, 0.25]], dtype=torch.float64).log()
    assert (shaped(log_r, ends=(), prompt=(), top_p=0.4) > 0).tolist() == [[True, True, False, False]]


def test_forbidden_tokens_stay_forbidden():
    log_r = torch.tensor([[0.0, 0.5, 0.5]], dtype=torch.float64).log()
    for params in ({"temperature": 3.0}, {"top_p": 0.99}, {"repetition_penalty": 2.0}, {"logit_bias": {0: 50.0}}):
        assert shaped(log_r, ends=(), output=(0,), start=1, **params)[0, 0] == 0


def test_members_are_shaped_before_they_are_combined():
    logits = torch.randn(2, 3, 7, dtype=torch.float64)
    hot = shape_members(logits, SamplingParams(member_temperature=2.0))
    torch.testing.assert_close(torch.softmax(hot, -1), torch.softmax(logits / 2, -1))
    cold = shape_members(logits.float(), SamplingParams(member_temperature=1e-300))
    torch.testing.assert_close(torch.softmax(cold, -1), torch.nn.functional.one_hot(logits.argmax(-1), 7).float())
    cut = torch.softmax(shape_members(logits, SamplingParams(member_top_p=0.6)), -1)
    for member, position in itertools.product(range(2), range(3)):
        p = torch.softmax(logits[member, position], -1).tolist()
        assert cut[member, position].tolist() == pytest.approx(naive.kept_by_top_p(p, 0.6))
    assert shape_members(logits, SamplingParams()) is logits


ODD = ["1", None, True, [], object()]
REFUSED = {
    "temperature": ([NAN, INF, -INF, -0.1, 10**400, *ODD], "a finite number >= 0"),
    "top_k": ([NAN, INF, -1, 1.0, *ODD], "a whole number >= 0"),
    "top_p": ([NAN, INF, 0, -0.1, 1.01, *ODD], "above 0 and at most 1"),
    "min_p": ([NAN, INF, -0.1, 1.01, *ODD], "between 0 (off) and 1"),
    "repetition_penalty": ([NAN, INF, 0, -1.0, *ODD], "a finite number above 0"),
    "presence_penalty": ([NAN, INF, -INF, *ODD], "a finite number"),
    "frequency_penalty": ([NAN, INF, -INF, *ODD], "a finite number"),
    "logit_bias": (
        [{0: NAN}, {0: INF}, {0: "1"}, {0: True}, {0: None}, {-1: 1.0}, {1.5: 1.0}, {"a": 1.0}, {True: 1.0}, [1], 3],
        "token ids to numbers or -inf",
    ),
    "member_temperature": ([NAN, INF, 0, -1.0, *ODD], "a finite number above 0"),
    "member_top_p": ([NAN, INF, 0, -0.1, 1.01, *ODD], "above 0 and at most 1"),
    "seed": ([NAN, INF, 1.0, "1", True, []], "a whole number or None"),
    "n": ([NAN, INF, 0, -1, 1.0, *ODD], "a whole number >= 1"),
    "max_tokens": ([NAN, INF, -1, 1.0, *ODD], "a whole number >= 0"),
    "min_tokens": ([NAN, INF, -1, 1.0, 129, *ODD], "from 0 to max_tokens"),
    "stop": ([NAN, 3, "", ["a", ""], [3], True], "non-empty strings"),
    "stop_token_ids": ([NAN, "a", [-1], [1.0], [True], ["1"]], "token ids"),
    "ignore_eos": ([NAN, 1, "yes", None], "true or false"),
    "logprobs": ([NAN, INF, -1, 1.0, "1", True, []], "a whole number >= 0 or None"),
    "prompt_logprobs": ([NAN, INF, -1, 1.0, "1", True, []], "a whole number >= 0 or None"),
    "constraint": ([NAN, "[0-9]+", True, [], {}, object()], "an object with `allowed`, or None"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_out_of_range_is_refused_by_name_with_the_range(name):
    values, rule = REFUSED[name]
    for value in values:
        with pytest.raises(InvalidSampling) as refusal:
            SamplingParams(**{name: value})
        assert str(refusal.value).startswith(f"{name} must be ")
        assert rule in str(refusal.value)


def test_every_parameter_is_tried():
    assert set(REFUSED) == set(SamplingParams.__dataclass_fields__)


def test_what_is_in_range_is_taken():
    params = SamplingParams(stop="a", stop_token_ids=3, logit_bias={"7": -INF, 2: 1}, seed=-(10**30), min_tokens=128)
    assert params.stop == ("a",)
    assert params.stop_token_ids == (3,)
    assert params.logit_bias == {7: -INF, 2: 1}
    unset = SamplingParams(stop=None, stop_token_ids=None, logit_bias=None)
    assert (unset.stop, unset.stop_token_ids, unset.logit_bias) == ((), (), {})


def test_parameters_that_touch_r_are_known_as_such():
    touching = [
        {"temperature": 0.9},
        {"temperature": 0},
        {"top_k": 1},
        {"top_p": 0.9},
        {"min_p": 0.1},
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"logit_bias": {0: 0.0}},
        {"min_tokens": 1},
    ]
    assert not any(SamplingParams(**params).is_identity for params in touching)
    assert SamplingParams(member_temperature=0.5, member_top_p=0.5, seed=1, max_tokens=3, stop="a").is_identity


def test_a_draw_is_keyed_by_each_part_of_its_key():
    keys = {
        Draws(seed, index).key(position, purpose, epoch)
        for seed in (0, 1, -1, 2**63, 10**30)
        for index in (0, 1)
        for position in (0, 1, 1000)
        for purpose in Purpose
        for epoch in (0, 1)
    }
    assert len(keys) == 5 * 2 * 3 * len(Purpose) * 2


def test_a_draw_is_the_same_whenever_it_is_asked_for():
    asked = [Draws(5, 2).uniform(7, Purpose.ACCEPT, 3) for _ in range(2)]
    assert asked[0] == asked[1]
    row = torch.zeros(1, 9)
    torch.testing.assert_close(Draws(5).gumbel(0, 6, row)[4:5], Draws(5).gumbel(4, 1, row), rtol=0, atol=0)


def test_draws_are_pinned_so_that_seeds_mean_the_same_in_every_version():
    assert Draws(1).key(2, Purpose.PROPOSE, 3) == Draws(1 + 2**64).key(2, Purpose.PROPOSE, 3)
    assert Draws(0).uniform(0, Purpose.SETTLE) == pytest.approx(0.7271418462709303, abs=1e-15)
    noise = Draws(0).gumbel(0, 1, torch.zeros(1, 2, dtype=torch.float64))
    assert noise[0].tolist() == pytest.approx([0.2259700137271396, 2.7663832892176274])


def uniforms(num: int = 20_000) -> dict[str, torch.Tensor]:
    """Runs of draws whose keys differ in one part by one each."""
    runs = {
        "position": (Draws(1).uniform(i, Purpose.ACCEPT) for i in range(num)),
        "epoch": (Draws(1).uniform(0, Purpose.ACCEPT, i) for i in range(num)),
        "seed": (Draws(i).uniform(0, Purpose.ACCEPT) for i in range(num)),
        "index": (Draws(1, i).uniform(0, Purpose.ACCEPT) for i in range(num)),
        "purpose": (Draws(1).uniform(i, Purpose.PROPOSE) for i in range(num)),
    }
    return {name: torch.tensor(list(run), dtype=torch.float64) for name, run in runs.items()}


def test_uniforms_are_uniform_and_neighbours_independent():
    runs = uniforms()
    num = len(runs["seed"])
    for run in runs.values():
        assert 0 < float(run.min()) < 1e-3
        assert 1 - 1e-3 < float(run.max()) < 1
        assert float(run.mean()) == pytest.approx(0.5, abs=5 / math.sqrt(12 * num))
        assert float(run.var()) == pytest.approx(1 / 12, abs=0.003)
        for lag in (1, 2):
            assert abs(float(torch.corrcoef(torch.stack([run[:-lag], run[lag:]]))[0, 1])) < 5 / math.sqrt(num)
    apart = torch.corrcoef(torch.stack(list(runs.values()))).fill_diagonal_(0)
    # All five runs start at one key or two.
    assert float(apart.abs().max()) < 5 / math.sqrt(num)


def test_noise_has_gumbels_moments_in_every_row_and_column():
    noise = Draws(11).gumbel(0, 400, torch.zeros(1, 500, dtype=torch.float64))
    assert float(noise.mean()) == pytest.approx(0.57722, abs=0.02)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.05)
    uniform = torch.exp(-torch.exp(-noise))
    for means in (uniform.mean(0), uniform.mean(1)):
        assert float((means - 0.5).abs().max()) < 5.5 / math.sqrt(12 * 400)
    correlations = torch.corrcoef(uniform).fill_diagonal_(0)
    assert float(correlations.abs().max()) < 6 / math.sqrt(500)
    assert float(torch.corrcoef(uniform.T).fill_diagonal_(0).abs().max()) < 6.5 / math.sqrt(400)


def test_noise_is_hashed_to_the_same_bits_by_numpy_and_by_torch():
    keys = [0, 1, -1, 2**63 - 1, -(2**63), *(Draws(seed).key(9, Purpose.SETTLE) for seed in range(30))]
    for vocab_size in (1, 4097):
        assert torch.equal(on_cpu(keys, vocab_size), on_device(keys, vocab_size, torch.device("cpu")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_finite_and_of_its_rows_type(dtype):
    noise = Draws(2**64 - 1).gumbel(0, 50, torch.zeros(1, 3000, dtype=dtype))
    assert noise.dtype == dtype
    assert torch.isfinite(noise).all()


NEAR = [2.0**-49, 2.0**-20, 0.5, 1 - 2.0**-20, 1 - 2.0**-49]


@pytest.mark.parametrize("uniform", NEAR)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_token_of_probability_0_is_never_drawn(dtype, uniform):
    for kept in itertools.product([0.0, 1e-30, 0.3], repeat=4):
        probs = torch.tensor(kept, dtype=dtype)
        if probs.sum() > 0:
            assert probs[draw(probs[None], [uniform])[0]] > 0


@pytest.mark.parametrize("uniform", NEAR)
def test_a_draw_from_a_large_vocabulary_stays_inside_it(uniform):
    probs = torch.softmax(torch.randn(150_000), 0)
    assert 0 <= draw(probs[None], [uniform])[0] < 150_000


def test_a_draw_is_the_token_at_which_the_running_sum_passes_the_uniform():
    probs = torch.tensor([0.25, 0.0, 0.5, 0.25])
    assert draw(probs.expand(6, -1), (0.1, 0.2499, 0.2501, 0.7499, 0.7501, 0.99)) == [0, 0, 2, 2, 3, 3]


def test_a_draw_does_not_need_normalised_weights():
    assert draw(torch.tensor([[2.0, 6.0], [2.0, 6.0]]), (0.24, 0.26)) == [0, 1]

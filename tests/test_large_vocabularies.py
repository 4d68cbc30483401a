"""Large vocabularies on a CPU: what is selected, drawn and penalised without a pass over everything is what plain torch
gives, and the benchmark of it runs."""

import importlib
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cospec import Ensemble, Mixture, Product, SamplingParams
from cospec.core import draws, select, settle, summed
from cospec.core import gumbel as gumbels
from cospec.core.combine import log_mixed
from cospec.core.gumbel import LIKELY, gumbel, noisy_best
from cospec.core.rows import NO_TOKEN, LogProbs, picked
from cospec.core.select import LEAST_SELECTED, LEAST_SUMMED
from cospec.core.transforms import History, biased, shape, shape_members, shaped, warp, warped

SIZE = LEAST_SELECTED + 37
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "vocabulary.py"
CUTS = [
    {"top_p": 0.9},
    {"top_p": 0.5, "temperature": 0.8},
    {"top_p": 0.999, "temperature": 1.4},
    {"top_p": 1 - 1e-7},
    {"top_k": 50},
    {"top_k": 1},
    {"top_k": SIZE},
    {"min_p": 0.05},
    {"top_k": 40, "top_p": 0.9, "min_p": 0.02, "temperature": 0.7},
    {"temperature": 0},
]


@pytest.fixture(autouse=True, params=["numba", "torch alone"])
def compiled(request, monkeypatch):
    """Both with compiled loops, where numba is installed, and without them."""
    if request.param == "torch alone":
        for module in (select, gumbels, draws, summed):
            monkeypatch.setattr(module, "kernels", lambda: None)
    elif select.kernels() is None:
        pytest.skip("numba is not installed")


def rows(num: int, sharpness: float = 3.0, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sharpness * torch.randn(num, SIZE, generator=generator, dtype=dtype)


@pytest.mark.parametrize("params", CUTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_tokens_that_are_kept_are_those_of_plain_torch(params, dtype):
    params = SamplingParams(**params)
    for sharpness in (0.1, 1, 3, 8):
        # Whole numbers have ties at every threshold.
        for logits in (rows(2, sharpness, dtype=dtype), rows(2, sharpness, seed=1, dtype=dtype).round()):
            expected, found = warp(logits, params), warped(logits, params).whole(SIZE)
            assert torch.equal(found > -math.inf, expected > -math.inf)
            torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-6)


def row_of(kept: dict[int, float]) -> torch.Tensor:
    """log-probabilities of a row that forbids all other tokens."""
    return torch.full((SIZE,), -math.inf).index_put_((torch.tensor([*kept]),), torch.tensor([*kept.values()]).log())


def kept_of(logits: torch.Tensor, top_p: float) -> list[int]:
    return select.kept_by_top_p(select.HotRow.of(logits.numpy(), 1.0, is_summed=True), top_p)[0].tolist()


@pytest.mark.parametrize(("top_p", "count"), [(0.25, 1), (0.5, 2), (0.5001, 3), (0.75, 3), (0.999, 4)])
def test_top_p_keeps_the_token_that_reaches_it_and_no_more_and_of_equals_the_lowest(top_p, count):
    ids = [7, 100, 5000, SIZE - 1]
    assert kept_of(row_of(dict.fromkeys(ids, 0.25)), top_p) == ids[:count]


def test_of_a_row_that_is_sure_only_the_likely_tokens_are_looked_at():
    row = row_of({5: 0.99} | dict.fromkeys(range(6, SIZE), 0.01 / SIZE))
    assert kept_of(row, 0.9) == [5]
    ids, _, _ = next(select.HotRow.of(row.numpy(), 1.0, is_summed=True).candidates())
    assert ids.tolist() == [5]


@pytest.mark.parametrize("depth", select.DEPTHS)
def test_top_p_finds_a_threshold_that_lies_at_a_depth_it_looks_at(depth):
    """Half of the mass and more lies on equal tokens that stand so far below the first one."""
    for num in (int(math.exp(depth)), SIZE - 1):
        logits = torch.full((SIZE,), -math.inf)
        logits[1 : 1 + num] = -depth
        logits[0] = 0
        for top_p in (0.3, 0.51, 0.9):
            expected = (warp(logits[None], SamplingParams(top_p=top_p))[0] > -math.inf).nonzero()[:, 0]
            assert kept_of(logits, top_p) == expected.tolist()


def test_of_equals_temperature_0_takes_the_lowest():
    logits = row_of({5: 0.4, 6000: 0.4, 9: 0.2})
    found = warped(logits[None], SamplingParams(temperature=0, logit_bias={9: 0.0}))
    assert found.ids.tolist() == [[5]]
    assert found.values.tolist() == [[0.0]]


@pytest.mark.parametrize("params", [{"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}, {"temperature": 0}])
@pytest.mark.parametrize("fault", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_no_distribution_stays_none(params, fault):
    logits = rows(2)
    logits[1] = fault if fault < 0 else logits[1].index_fill(0, torch.tensor([77]), fault)
    assert not warped(logits, SamplingParams(**params)).values.amax(-1)[1].isfinite()


def test_each_position_of_a_block_has_its_own_columns():
    logits = rows(3)
    together = warped(logits, SamplingParams(top_p=0.3))
    for position in range(3):
        alone = warped(logits[position : position + 1], SamplingParams(top_p=0.3))
        assert torch.equal(alone.whole(SIZE)[0], together.whole(SIZE)[position])


@pytest.mark.parametrize("params", [{"top_p": 0.3}, {"top_k": 5}, {"temperature": 0}])
def test_behind_a_draft_that_is_forbidden_no_row_is_shaped(params):
    logits, params = rows(4), SamplingParams(**params)
    best = logits.argmax(-1).tolist()
    lowest = int(logits[1].argmin())
    assert len(warped(logits, params, best)) == 4
    assert len(warped(logits, params, best[:3])) == 4
    assert len(warped(logits, params, [best[0], lowest, *best[2:]])) == 2
    assert torch.equal(warped(logits, params, [lowest]).whole(SIZE), warped(logits[:1], params).whole(SIZE))


def test_a_token_without_a_column_is_impossible():
    ids = torch.tensor([[3, 8], [8, NO_TOKEN]])
    log_probs = LogProbs(torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log(), ids)
    assert log_probs.at([8, 3]) == [log_probs.values[0, 1], -math.inf]
    assert log_probs.at([9, 8]) == [-math.inf, 0.0]
    assert log_probs.whole(10).exp()[:, [3, 8, 9]].tolist() == [[0.5, 0.5, 0], [0, 1, 0]]
    wanted = torch.tensor([0, 3, 4, 8, NO_TOKEN])
    assert picked(torch.tensor([0.25, 0.75]), ids[0], wanted).tolist() == [0, 0.25, 0, 0.75, 0]


@pytest.mark.parametrize("sharpness", [0.01, 1, 3, 10])
def test_the_best_of_few_noises_is_the_best_of_all(sharpness):
    for seed in range(12):
        log_p = torch.log_softmax(rows(1, sharpness, seed=seed)[0], 0)
        key = (seed + 1) * 0x123456789ABCDEF % 2**63 * (-1) ** seed
        noise = gumbel([key], log_p)[0]
        assert noisy_best(key, log_p) == int((noise + log_p).argmax())
        some = torch.arange(seed, SIZE, 11)
        assert torch.equal(gumbel([key], log_p[some], some)[0], noise[some])


def test_a_token_that_is_unlikely_wins_by_its_noise():
    """One token has half of the mass, and all others together the rest, each too little to be likely."""
    log_p = row_of({0: 0.5} | dict.fromkeys(range(1, SIZE), 0.5 / (SIZE - 1)))
    assert float(log_p[1]) < LIKELY
    drawn = [noisy_best(key, log_p) for key in range(400)]
    assert 150 < drawn.count(0) < 250
    assert [(gumbel([key], log_p)[0] + log_p).argmax().item() for key in range(400)] == drawn


@pytest.mark.parametrize("size", [3, 300, 1500, SIZE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_draw_is_that_of_the_running_sum_to_the_last_bit(dtype, size):
    probs = torch.softmax(rows(1, 2, dtype=dtype)[:, :size], -1)
    running = (probs.double().cumsum(-1)[0] / probs.double().cumsum(-1)[0, -1]).numpy()
    edges = running[[at for at in (0, 5, 255, 256, 257, 4000, size - 2) if at < size - 1]]
    near = [float(np.nextafter(edge, side)) for edge in edges for side in (0, 1)]
    for uniform in (1e-15, 1 - 1e-15, *edges.tolist(), *near, *torch.rand(200).tolist()):
        assert draws.draw(probs, [uniform]) == draws.draw_by_running_sum(probs, [uniform])


def test_a_draw_is_made_from_rows_that_have_gradients():
    assert draws.draw(torch.tensor([[0.25, 0.75]], requires_grad=True), [0.3]) == [1]


def test_a_draw_by_blocks_never_takes_a_token_of_probability_0():
    for kept in itertools.product([0, 255, 256, SIZE - 1], repeat=2):
        probs = row_of(dict.fromkeys(kept, 0.5)).exp()
        for uniform in (2.0**-49, 0.25, 0.5, 0.75, 1 - 2.0**-49):
            assert draws.draw(probs[None], [uniform])[0] in kept


def test_penalties_are_their_formulas_at_every_token():
    logits, output = rows(3), (5, 5, 6, 9)
    history = History(prompt=(1, 1, 2), output=output, start=2)
    params = SamplingParams(repetition_penalty=1.3, frequency_penalty=0.4, presence_penalty=-0.2)
    found = biased(logits, params, history, (), 0.5)
    for row in range(3):
        counts = torch.bincount(torch.tensor(output[: 2 + row]), minlength=SIZE).float()
        raised = logits[row] + 0.5
        repeated = torch.where(raised > 0, raised / 1.3, raised * 1.3)
        is_repeated = (counts > 0).index_fill(0, torch.tensor([1, 2]), True)
        expected = torch.where(is_repeated, repeated, raised) - 0.4 * counts + 0.2 * (counts > 0)
        assert torch.equal(found[row], expected)


def test_a_members_own_top_p_keeps_what_plain_torch_keeps():
    logits = rows(2)[:, None]
    found = shape_members(logits, SamplingParams(member_top_p=0.8))
    kept = warp(logits[:, 0], SamplingParams(top_p=0.8)) > -math.inf
    assert torch.equal(found[:, 0] > -math.inf, kept)


def test_a_mixture_in_probabilities_is_that_in_logarithms():
    logits = torch.stack([rows(3, 4), rows(3, 4, seed=1)])
    logits[:, 1, 7] = -math.inf
    logits[:, 2, 8] = -300
    logits[0, 0, 9] = -math.inf
    mixture = Mixture([0.3, 0.7])
    found, expected = mixture.log_probs(logits), log_mixed(logits, mixture.weights)
    torch.testing.assert_close(found, expected, atol=4e-6, rtol=1e-6)
    for position in range(3):
        assert torch.equal(mixture.log_probs(logits[:, position : position + 1])[0], found[position])
    logits[0, 1, 0] = math.nan
    assert mixture.log_probs(logits).isnan().any(-1).tolist() == [False, True, False]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("vocabulary")


PLANS = [
    {"schedule": "plain"},
    *({"schedule": "fixed", "gamma": 3, "verification": v} for v in ("token", "block", "coupled")),
    # Its members' verdicts on drafts are drafts themselves.
    {"schedule": "cascade", "gamma": (2, 3)},
]
SAMPLING = [
    {},
    {"temperature": 0},
    {"temperature": 0.8, "top_p": 0.9},
    {"top_k": 20, "repetition_penalty": 1.3},
    {"temperature": 0, "presence_penalty": 0.5},
]


@pytest.mark.parametrize("combine", [Mixture([0.4, 0.6]), Product([0.5, 0.5])], ids=["mixture", "product"])
@pytest.mark.parametrize("size", [SIZE, LEAST_SUMMED + 37])
def test_texts_are_those_that_plain_torch_samples(script, monkeypatch, combine, size):
    def texts() -> list[list[int]]:
        members = [script.RandomRows(size, own, seed=i) for i, own in enumerate((0.0, 0.7))]
        found = []
        for plan in PLANS:
            drafter = {} if plan["schedule"] == "plain" else {"proposer": script.RandomRows(size, 0.7, seed=9)}
            ensemble = Ensemble(members=members, combine=combine, **plan, **drafter)
            for sampling in SAMPLING:
                params = SamplingParams(max_tokens=12, seed=3, **sampling)
                found += [result.token_ids for result in ensemble.generate([[1, 2], [3]], params)]
        return found

    selected = texts()
    for least in ("LEAST_SELECTED", "LEAST_SUMMED", "LEAST_CUT"):
        monkeypatch.setattr(select, least, 2 * size)
    assert texts() == selected


BROKEN = {
    "NaN": lambda row: row.index_fill(-1, torch.tensor([11]), math.nan),
    "infinite": lambda row: row.index_fill(-1, torch.tensor([11]), math.inf),
    "forbidding": lambda row: torch.full_like(row, -math.inf),
}
SHAPED = [{}, {"temperature": 0.8}, {"top_p": 0.9}, {"top_k": 3}, {"temperature": 0}, {"presence_penalty": 0.5}]


@pytest.mark.parametrize("params", SHAPED, ids=str)
@pytest.mark.parametrize("fault", BROKEN)
def test_a_member_of_a_large_vocabulary_whose_row_is_broken_is_named(script, fault, params):
    member = script.RandomRows(SIZE, 0.0, seed=0)
    member._rows = BROKEN[fault](member._rows)
    (result,) = Ensemble([member]).generate([[1]], SamplingParams(max_tokens=2, **params))
    assert "gave a row that is no distribution" in result.error


@pytest.mark.parametrize("params", SHAPED, ids=str)
@pytest.mark.parametrize("fault", BROKEN)
def test_a_drafter_of_a_large_vocabulary_whose_row_is_broken_drafts_nothing(script, fault, params):
    member, drafter = script.RandomRows(SIZE, 0.0, seed=0), script.RandomRows(SIZE, 0.0, seed=1)
    drafter._rows = BROKEN[fault](drafter._rows)
    ensemble = Ensemble([member], schedule="fixed", gamma=2, proposer=drafter)
    (result,) = ensemble.generate([[1]], SamplingParams(max_tokens=3, ignore_eos=True, **params))
    assert result.error is None
    assert len(result.token_ids) == 3
    assert not sum(counts.proposed for counts in result.proposers.values())


@pytest.mark.parametrize("params", SHAPED, ids=str)
def test_a_row_that_forbids_its_first_token_is_a_distribution(script, params):
    member, drafter = script.RandomRows(SIZE, 0.0, seed=0), script.RandomRows(SIZE, 0.7, seed=1)
    for runner in (member, drafter):
        runner._rows[:, 0] = -math.inf
    ensemble = Ensemble([member], schedule="fixed", gamma=2, proposer=drafter)
    (result,) = ensemble.generate([[1]], SamplingParams(max_tokens=3, ignore_eos=True, seed=0, **params))
    assert result.error is None
    assert result.proposers


class Nothing:
    """Allows no token."""

    def allowed(self, output, start, count):
        return torch.zeros(count, SIZE, dtype=torch.bool)


def test_where_every_token_is_forbidden_the_text_ends_with_an_error(script):
    ensemble = Ensemble([script.RandomRows(SIZE, 0.0, seed=0)])
    (result,) = ensemble.generate([[1]], SamplingParams(max_tokens=2, top_p=0.9, constraint=Nothing()))
    assert "every token forbidden" in result.error


LEVELS = {"logits": 0.0, "raised": torch.tensor([[2.0], [-0.5], [1.0]])}
PENALTIES = [
    {"repetition_penalty": 1.3, "top_p": 0.8},
    {"repetition_penalty": 0.7, "frequency_penalty": 0.4, "presence_penalty": -0.2, "temperature": 0},
    {"presence_penalty": 3.0, "logit_bias": {5: 2.0}, "min_tokens": 4, "top_k": 30},
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("params", PENALTIES, ids=str)
def test_rows_penalised_one_by_one_are_those_penalised_at_once(params, level):
    logits, params = rows(3), SamplingParams(**params)
    before, history = logits.clone(), History(prompt=(4, 4, 7), output=(1, 2, 2, 5), start=2)
    given = LEVELS[level] if params.repetition_penalty != 1 else 0.0
    for drafted in ((), (2, 5), tuple(logits.argmax(-1).tolist())):
        expected = warped(biased(logits, params, history, [9], given), params, drafted)
        found = shaped(logits, params, history, [9], given, drafted)
        assert torch.equal(found.values, expected.values)
        assert torch.equal(found.ids, expected.ids)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("own", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("params", [{}, {"top_p": 0.9}, {"temperature": 0}], ids=str)
def test_the_row_behind_the_drafts_is_shaped_where_all_of_them_stand_alone(script, monkeypatch, own, params):
    shaped_behind, distributions = [], settle.distributions
    verdicts, verdicts_of = [], settle.verdicts_of
    monkeypatch.setattr(settle, "distributions", lambda items: shaped_behind.extend(items) or distributions(items))
    monkeypatch.setattr(settle, "verdicts_of", lambda blocks: verdicts.extend(verdicts_of(blocks)) or verdicts[-1:])
    member, drafter = script.RandomRows(SIZE, 0.0, seed=0), script.RandomRows(SIZE, own, seed=1)
    ensemble = Ensemble([member], schedule="fixed", gamma=2, proposer=drafter)
    (result,) = ensemble.generate([[1]], SamplingParams(max_tokens=60, ignore_eos=True, seed=2, **params))
    assert result.error is None
    assert len(shaped_behind) == sum(verdict.token is None for verdict in verdicts)
    assert all(len(item.log_probs) == 1 for item in shaped_behind)


class Fickle:
    """Allows no token at the second of several positions, where it is first asked of several."""

    was_asked = False

    def allowed(self, output, start, count):
        allowed = torch.ones(count, SIZE, dtype=torch.bool)
        if count > 1 and not self.was_asked:
            allowed[1], self.was_asked = False, True
        return allowed


def test_no_token_is_drawn_where_a_draft_is_still_to_be_decided(script):
    member, drafter = script.RandomRows(SIZE, 0.0, seed=0), script.RandomRows(SIZE, 0.0, seed=1)
    ensemble = Ensemble([member], schedule="fixed", gamma=2, proposer=drafter)
    params = SamplingParams(max_tokens=9, ignore_eos=True, top_p=0.9, constraint=Fickle())
    (result,) = ensemble.generate([[1]], params)
    assert result.error is None
    assert len(result.token_ids) == 9


def test_shaping_as_a_whole_is_shaping_by_columns():
    logits, params = rows(2), SamplingParams(top_p=0.7, repetition_penalty=1.2)
    history = History(prompt=(4,), output=(1, 2), start=1)
    by_columns = warped(biased(logits, params, history, (), 2.0), params)
    torch.testing.assert_close(by_columns.whole(SIZE), shape(logits, params, history, (), 2.0), atol=2e-6, rtol=1e-6)


def test_the_benchmark_measures_every_schedule_and_sampling(script, tmp_path, capsys):
    out = tmp_path / "own.json"
    figures = script.main(["--vocabularies", "300", str(SIZE), "--tokens", "4", "--repeats", "1", "--json", str(out)])
    assert json.loads(out.read_text()) == figures
    assert {*figures["own_ms_per_token"]} == {"300", str(SIZE)}
    for by_schedule in figures["own_ms_per_token"].values():
        assert {*by_schedule} == {*script.SCHEDULES}
        for own in by_schedule.values():
            assert {*own} == {*script.SAMPLING}
            assert min(own.values()) > 0
    assert "fixed 5" in capsys.readouterr().out

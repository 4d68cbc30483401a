"""The loops that numba compiles give what numpy and plain torch give, and faults in them are noticed."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from cospec import SamplingParams
from cospec.core import draws, gumbel, kernels, select
from cospec.core import summed as summed_rows
from cospec.core.summed import KeptLogProbs, SummedLogProbs, SummedRuns
from cospec.core.transforms import History, biased, shaped, warp, warped
from cospec.core.verify import Unsure

SIZES = (1, 7, kernels.BLOCK - 1, kernels.BLOCK, kernels.BLOCK + 1, 9_001, 151_936)
ROWS = {
    "wide": lambda size, generator: 3 * torch.randn(size, generator=generator),
    "flat": lambda size, generator: 0.01 * torch.randn(size, generator=generator) - 30,
    # The second of four likely tokens is the last one of a block.
    "sure": lambda size, generator: torch.randn(size, generator=generator).index_put_(
        (torch.tensor([size // 2, min(size, kernels.BLOCK) - 1, size // 3, size // 4]),),
        torch.tensor([25, 24.5, 24.3, 24.0]),
    ),
    "forbidding": lambda size, generator: torch.full((size,), -math.inf).index_fill(0, torch.tensor([size // 2]), 5),
    "lowest": lambda size, generator: torch.full((size,), torch.finfo(torch.float32).min),
}
PARAMS = [
    {"top_p": 0.9, "temperature": 0.8},
    {"top_p": 0.5},
    {"top_p": 0.999, "temperature": 1.4},
    {"top_p": 0.9, "top_k": 40},
]
KEYS = (0, 1, -1, 2**63 - 1, -(2**63), 0x123456789ABCDEF)


def row_of(kind: str, size: int, seed: int = 0) -> torch.Tensor:
    return ROWS[kind](size, torch.Generator().manual_seed(seed))


def summed(row: torch.Tensor, temperature: float = 1.0, changes=select.NO_CHANGES, depth: float = 0.0):
    """The maximum, the total, the maxima and the sums of blocks, and what is above the depth: ids and heated logits."""
    return kernels.summed(row.numpy(), *changes, 1 / temperature, depth)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("size", SIZES)
def test_a_row_is_summed_up_to_rounding_and_its_maxima_are_exact(kind, size):
    row = row_of(kind, size)
    for temperature in (0.1, 0.7, 0.8, 1.0, 1.3, 5.0):
        highest, total, highest_in, sums, _, _ = summed(row, temperature)
        weights = select.heated(row, temperature).double().exp()
        assert highest == row.max()
        assert total == pytest.approx(float(weights.sum()), rel=select.ROUNDING / 2)
        expected = [float(part.sum()) for part in weights.split(kernels.BLOCK)]
        assert sums.tolist() == pytest.approx(expected, rel=select.ROUNDING, abs=1e-35)
        assert highest_in.tolist() == [max(float(part.max()), kernels.LEAST) for part in row.split(kernels.BLOCK)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["wide", "flat", "sure"])
def test_a_row_with_changes_is_summed_as_one_that_has_them(kind, size):
    row = row_of(kind, size)
    chosen = {0, size - 1, int(row.argmax()), *range(size // 3, size // 2, 97)}
    ids = np.array(sorted({*chosen, *(min(size - 1, at) for at in (kernels.BLOCK - 1, kernels.BLOCK))}))
    for shift in (-1.5, 2.0, -math.inf):
        logits = (row.numpy()[ids] + shift).astype(np.float32)
        if len(ids) == size and shift == -math.inf:
            continue
        whole = torch.from_numpy(select.changed(row.numpy(), (ids, logits)))
        for found, expected in zip(summed(row, 0.8, (ids, logits), 4.0), summed(whole, 0.8, depth=4.0), strict=True):
            assert np.array_equal(found, expected)


@pytest.mark.parametrize("size", SIZES)
def test_while_a_row_is_summed_the_tokens_above_a_depth_are_found(size):
    row = row_of("wide", size)
    for depth in (0.5, 3.0, 9.0, 1e9):
        _, _, _, _, ids, values = summed(row, 0.8, depth=depth)
        floor = np.float32(max(float(row.max()) - depth * 0.8, float(kernels.LEAST)))
        expected = np.flatnonzero(row.numpy() >= floor)
        assert abs(len(ids) - len(expected)) <= 1
        assert np.array_equal(values, select.heated(row, 0.8).numpy()[ids])
        assert {*expected[row.numpy()[expected] > floor + 1e-5]} <= {*ids.tolist()}


def test_weights_lie_no_further_from_torchs_than_is_said():
    first, last = (int(np.float32(value).view(np.uint32)) for value in (-0.0, -87.0))
    values = np.arange(first, last, 997, dtype=np.uint32).view(np.float32)
    weights = np.empty_like(values)
    total = kernels.weights_of_kept(values, weights)
    expected = torch.from_numpy(values).exp().double().numpy()
    assert np.abs(weights / expected - 1).max() < select.OF_WEIGHTS
    assert total == pytest.approx(weights.sum(dtype=np.float64), rel=select.OF_SUMS)


@pytest.mark.parametrize("size", SIZES)
def test_a_sum_in_double_is_off_by_no_more_than_its_weights(size):
    row = row_of("wide", size)
    changes = np.array([size // 2]), row.numpy()[[size // 2]] - 1
    before = row.clone()
    total = kernels.total_in_double(row.numpy(), *changes, float(row.max()), 1.25)
    changed = torch.from_numpy(select.changed(row.numpy(), changes))
    weights = changed.sub(row.max()).mul(1.25).exp().double()
    assert total == pytest.approx(float(weights.sum()), rel=select.OF_WEIGHTS + select.OF_SUMS, abs=0)
    assert torch.equal(row, before)


@pytest.mark.parametrize("name", ["ROUNDING", "OF_SUMS"])
def test_what_sums_may_not_decide_is_decided_by_more_exact_ones(name, monkeypatch):
    """With a margin in which every threshold lies: of the first sum, and of the second, too."""
    monkeypatch.setattr(select, "ROUNDING", 0.01)
    monkeypatch.setattr(select, name, 0.01)
    asked, exact = [], select.HotRow.exact_total
    monkeypatch.setattr(select.HotRow, "exact_total", lambda row: asked.append(row) or exact(row))
    for seed in range(4):
        row = row_of("wide", 20_001, seed)
        for given in PARAMS[:3]:
            params = SamplingParams(**given)
            is_kept = warped(row[None], params).whole(len(row)) > -math.inf
            assert torch.equal(is_kept, warp(row[None], params) > -math.inf)
    assert bool(asked) == (name == "OF_SUMS")


@pytest.mark.parametrize("fault", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 1, kernels.BLOCK - 1, kernels.BLOCK, 9_000])
def test_a_row_with_nan_or_an_infinite_maximum_has_none(fault, at):
    for kind in ("wide", "forbidding"):
        row = row_of(kind, 9_001)
        row[at] = fault
        assert math.isnan(select.HotRow.of(row.numpy(), 0.8, is_summed=True).highest)


def test_a_row_that_forbids_every_token_has_no_maximum():
    row = torch.full((9_001,), -math.inf)
    assert math.isnan(select.HotRow.of(row.numpy(), 0.8, is_summed=True).highest)


def finds_all_above(above, size: int) -> bool:
    """Whether it finds the tokens that numpy finds, from floors on that tokens stand at."""
    for row in (row_of("wide", size), row_of("wide", size).round(), row_of("forbidding", size)):
        highest, _, highest_in, *_ = summed(row)
        for floor in (*row.sort().values[[0, size // 2, -1]].clamp(min=-1e30).tolist(), float(kernels.LEAST)):
            ids, values = above(row.numpy(), *select.NO_CHANGES, 1.25, highest, highest_in, floor)
            expected = np.flatnonzero(row.numpy() >= np.float32(floor))
            expected_values = select.heated(row, 0.8).numpy()[expected]
            if not (np.array_equal(ids, expected) and np.array_equal(values, expected_values)):
                return False
    return True


@pytest.mark.parametrize("size", SIZES)
def test_the_tokens_above_a_floor_are_those_of_numpy_the_floor_itself_included(size):
    assert finds_all_above(kernels.above, size)


def only_above_the_floor(*args):
    *others, floor = args
    return kernels.above(*others, float(np.nextafter(np.float32(floor), np.float32(math.inf))))


def test_a_floor_that_is_left_out_is_noticed():
    assert not finds_all_above(only_above_the_floor, 9_001)


VALUES = {
    "wide": lambda generator: -3 * torch.rand(4_000, generator=generator) ** 0.5,
    "equal in steps": lambda generator: (-8 * torch.rand(4_000, generator=generator)).round(),
    "all equal": lambda generator: torch.full((3_000,), -2.0),
    "one": lambda generator: torch.zeros(1),
}


def fewest_of(values: np.ndarray, least: float, most: float, highest_left: float = -9.0) -> list[int] | int:
    """Their places; 0 and -1 as they are."""
    count, places, kept = kernels.fewest(np.arange(len(values)), values, highest_left, least, most)
    assert np.array_equal(kept, values[places])
    return places.tolist() if count > 0 else count


def by_sorting(values: np.ndarray, wanted: float) -> list[int]:
    order = np.argsort(-values, kind="stable")
    count = 1 + int(np.exp(values[order].astype(np.float64)).cumsum().searchsorted(wanted))
    return sorted(order[:count].tolist())


@pytest.mark.parametrize("kind", VALUES)
def test_the_fewest_that_sum_to_enough_are_those_of_sorting_and_of_equals_the_first(kind):
    values = VALUES[kind](torch.Generator().manual_seed(0)).numpy()
    total = float(np.exp(values.astype(np.float64)).sum())
    for share in (1e-9, 0.1001, 0.5001, 0.9001, 0.9999):
        expected = by_sorting(values, share * total)
        assert fewest_of(values, share * total, share * total) == expected


def test_which_are_the_fewest_is_left_open_where_it_hangs_by_the_rounding_of_a_sum():
    values = np.log(np.array([0.25, 0.5, 0.125], dtype=np.float32))
    assert fewest_of(values, 0.74, 0.74) == [0, 1]
    assert fewest_of(values, 0.76, 0.76) == [0, 1, 2]
    assert fewest_of(values, 0.74, 0.76) == 0
    # What is not among the values may be as high as the last of them.
    assert fewest_of(values, 0.74, 0.74, highest_left=float(values[0])) == 0
    assert fewest_of(values, 0.88, 0.9) == -1
    many = np.full(kernels.MOST_SORTED + 1, -1, dtype=np.float32)
    assert fewest_of(many, 0.5, 0.5) == 0
    assert fewest_of(many[1:], 0.5, 0.5) == [0, 1]


@pytest.mark.parametrize("size", SIZES)
def test_the_sum_of_each_block_is_that_of_numpy(size):
    row = torch.softmax(row_of("wide", size), 0).numpy()
    sums = np.empty(size // kernels.BLOCK + 1)
    kernels.summed_by_block(row, sums)
    expected = [row[at : at + kernels.BLOCK].sum(dtype=np.float64) for at in range(0, size + 1, kernels.BLOCK)]
    assert sums.tolist() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("temperature", [0.1, 0.8, 1.0, 1.3])
def test_heated_logits_are_to_the_bit_those_of_torch(temperature):
    row = row_of("wide", 9_001)
    expected = select.heated(row, temperature).numpy()
    hot = select.HotRow.of(row.numpy(), temperature, is_summed=True)
    ids = np.arange(0, 9_001, 7)
    assert np.array_equal(hot.values(ids), expected[ids])
    assert np.array_equal(hot.above(math.inf)[1], expected)


@pytest.mark.parametrize("size", SIZES)
def test_the_hashes_that_reach_a_number_are_those_of_numpy(size):
    for key in KEYS:
        hashes = gumbel.first_bits(key, size)
        for least in np.sort(hashes)[[0, size // 2, -1]]:
            assert gumbel.hashed_above(key, size, least).tolist() == np.flatnonzero(hashes >= least).tolist()


UNIFORMS = (1e-9, 0.37, 0.5, 0.83, 0.999)
HISTORY = History(prompt=(3, 5), output=(5, 7, 255, 256, 255), start=5)


def penalised_agree(row: torch.Tensor) -> bool:
    """Whether what is kept under penalties is what plain torch keeps."""
    history = replace(HISTORY, output=(*HISTORY.output[:4], int(row.argmax())))
    for params in (SamplingParams(top_p=0.9, frequency_penalty=1.0, repetition_penalty=1.2),):
        found = shaped(row[None], params, history, ())
        expected = warp(biased(row[None], params, history, ()), params)
        if not torch.equal(found.whole(len(row)) > -math.inf, expected > -math.inf):
            return False
    return True


def drawn_agree(row: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether what is drawn from a row, by noise and of what another leaves of it, is what plain torch draws."""
    for given in ({}, {"temperature": 0.7}):
        params = SamplingParams(**given)
        log_p, log_q = warped(row[None], params), warped(other[None], params)
        assert isinstance(log_p, SummedLogProbs)
        assert isinstance(log_q, SummedLogProbs)
        expected = warp(row[None], params)
        probs = draws.probabilities(expected)
        left = (probs - draws.probabilities(warp(other[None], params))).clamp(min=0)
        runs = SummedRuns.of([0], log_p.rows, log_q.rows)
        for u in UNIFORMS:
            if log_p.drawn([u]) != draws.draw_by_running_sum(probs, [u]):
                return False
            try:
                (token,) = runs.drawn(runs.residuals({0: 1.0}), [u])
            except Unsure:
                continue
            if [token] != draws.draw_by_running_sum(left, [u]):
                return False
        for key in KEYS:
            if log_p.noisy_best([key]) != [int((gumbel.gumbel([key], expected)[0] + expected[0]).argmax())]:
                return False
    return True


def kept_agree(row: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether what is drawn from kept tokens, and of what others leave of them, is what plain torch draws."""
    for given in ({"top_p": 0.9, "temperature": 0.8}, {"top_k": 30}, {"min_p": 0.01}):
        params = SamplingParams(**given)
        log_p, log_q = warped(row[None], params), warped(other[None], params)
        assert isinstance(log_p, KeptLogProbs)
        assert isinstance(log_q, KeptLogProbs)
        probs, other_probs = (draws.probabilities(each.whole(len(row))) for each in (log_p, log_q))
        best = int(row.argmax())
        runs = SummedRuns.of([best], log_p.rows, log_q.rows)
        if (runs.p[0], runs.q[0]) != pytest.approx((float(probs[0, best]), float(other_probs[0, best])), rel=1e-5):
            return False
        for u in UNIFORMS:
            if log_p.drawn([u]) != draws.draw_by_running_sum(probs, [u]):
                return False
            for a in (1.0, 0.4):
                (left,) = runs.residuals({0: a}).values()
                expected = (a * probs - other_probs).clamp(min=0)
                if left.mass != pytest.approx(float(expected.sum()), abs=1e-5):
                    return False
                try:
                    token = left.drawn(u)
                except Unsure:
                    continue
                if [token] != draws.draw_by_running_sum(expected, [u]):
                    return False
    return True


@pytest.mark.parametrize("given", [{}, {"top_p": 0.9, "temperature": 0.8}], ids=str)
def test_a_draw_at_the_edge_of_a_token_is_left_to_plain_torch(given, monkeypatch):
    log_p = warped(row_of("wide", 20_001)[None], SamplingParams(**given))
    probs = draws.probabilities(log_p.values)
    running = probs.double().cumsum(-1)[0].numpy()
    columns = range(0, len(running) - 1, len(running) // 20)
    edges = (running / running[-1])[[at for at in columns if probs[0, at] > 1e-9]]
    asked = []
    by_torch = draws.draw
    monkeypatch.setattr(
        summed_rows, "draw", lambda probs, uniforms: asked.extend(uniforms) or by_torch(probs, uniforms)
    )
    for edge in edges.tolist():
        for uniform in (edge, float(np.nextafter(edge, 0)), float(np.nextafter(edge, 1))):
            assert log_p.drawn([uniform]) == log_p.tokens(draws.draw_by_running_sum(probs, [uniform]))
            assert asked.pop() == uniform


def test_a_verdict_is_left_to_plain_torch_where_its_ratio_is_nearly_the_number_drawn():
    row, other = (warped(row_of("wide", 20_001, seed)[None], SamplingParams()).rows for seed in (0, 1))
    log_ratios = row[0].logits - other[0].logits - math.log(row[0].total / other[0].total)
    token = int(np.abs(log_ratios - row[0].highest + other[0].highest + math.log(2)).argmin())
    runs = SummedRuns.of([token], row, other)
    ratio = runs.p[0] / runs.q[0]
    assert 0.4 < ratio < 0.6
    assert [runs.accepts(ratio + shift, 0) for shift in (-0.01, 0.01)] == [True, False]
    for shift in (-5e-5, 0.0, 5e-5):
        with pytest.raises(Unsure):
            runs.accepts(ratio + shift, 0)


def test_of_a_row_that_leaves_nothing_no_token_is_drawn_by_sums():
    rows = warped(row_of("wide", 20_001)[None], SamplingParams()).rows
    runs = SummedRuns.of([7], rows, rows)
    with pytest.raises(Unsure):
        runs.drawn(runs.residuals({0: 1.0}), [0.5])


def agree(size: int = 20_001) -> bool:
    """Whether what is kept and drawn by compiled loops is what plain torch keeps and draws."""
    for seed in range(3):
        for kind in ("wide", "flat", "sure"):
            row = row_of(kind, size, seed)
            for logits in (row, row.round()):
                for given in PARAMS:
                    params = SamplingParams(**given)
                    is_kept = warped(logits[None], params).whole(size) > -math.inf
                    if not torch.equal(is_kept, warp(logits[None], params) > -math.inf):
                        return False
            other = row_of(kind, size, seed + 10)
            if not (penalised_agree(row) and drawn_agree(row, other) and kept_agree(row, other)):
                return False
            log_p = torch.log_softmax(row, 0)
            probs = log_p.exp()[None]
            if any(draws.draw(probs, [u]) != draws.draw_by_running_sum(probs, [u]) for u in (1e-9, 0.37, 0.999)):
                return False
            for key in KEYS:
                if gumbel.noisy_best(key, log_p) != int((gumbel.gumbel([key], log_p)[0] + log_p).argmax()):
                    return False
    return True


def test_what_is_kept_and_drawn_is_what_plain_torch_keeps_and_draws():
    assert agree()


def a_sum_that_is_short(*args):
    highest, total, *others = kernels.summed(*args)
    return highest, 0.99 * total, *others


def a_block_without_its_last_token(row, *others):
    row = row.copy()
    row[kernels.BLOCK - 1 :: kernels.BLOCK] = kernels.LEAST
    return kernels.summed(row, *others)


def changes_that_are_left_out(row, changed, changes, *others):
    return kernels.summed(row, *select.NO_CHANGES, *others)


def the_token_beside(row, *others):
    *sums, ids, values = kernels.summed(row, *others)
    return *sums, np.minimum(ids + 1, len(row) - 1), values


def the_token_beside_it(row, *others):
    ids, values = kernels.above(row, *others)
    return np.minimum(ids + 1, len(row) - 1), values


def the_hash_beside(key, vocab_size, least, ids):
    count = kernels.hashed_above(key, vocab_size, least, ids)
    ids[:count] = np.minimum(ids[:count] + 1, vocab_size - 1)
    return count


def logits_not_heated(row, changed, changes, coldness, *others):
    return kernels.above(row, changed, changes, np.float32(1), *others)


def one_too_few(*args):
    count, ids, values = kernels.fewest(*args)
    return count - 1, ids[:-1], values[:-1]


def of_equals_the_last(ids, values, *others):
    """The tokens from behind."""
    count, ids, values = kernels.fewest(ids[::-1].copy(), values[::-1].copy(), *others)
    return count, ids[::-1].copy(), values[::-1].copy()


def sums_that_miss_a_token(row, sums):
    kernels.summed_by_block(row, sums)
    sums[len(sums) // 2] -= row[len(sums) // 2 * kernels.BLOCK :][: kernels.BLOCK].max()


def the_next_token(*args):
    return kernels.drawn(*args) + 1


def the_token_of_the_next_key(key, *others):
    return kernels.noisy_best(key + np.uint64(1), *others)


def what_is_left_of_the_other(*args):
    return kernels.left(*args[4:8], *args[:4], args[8])


def the_next_token_that_is_left(*args):
    return kernels.drawn_of_left(*args) + 1


def the_next_kept_token(weights, *others):
    return (kernels.drawn_of_kept(weights, *others) + 1) % len(weights)


def weights_that_are_all_one(values, weights):
    weights[:] = 1
    return len(weights)


def of_which_nothing_is_taken(ids, weights, scale, other_ids, other_weights, other_scale, left):
    """As if the draft had been drawn from no token that is kept."""
    return kernels.left_of_kept(ids, weights, scale, other_ids + 2**40, other_weights, other_scale, left)


FAULTS = {
    "a sum that is short": {"summed": a_sum_that_is_short},
    "a block without its last token": {"summed": a_block_without_its_last_token},
    "changes that are left out": {"summed": changes_that_are_left_out},
    "the token beside, while summing": {"summed": the_token_beside},
    "the token beside": {"above": the_token_beside_it},
    "the hash beside": {"hashed_above": the_hash_beside},
    "logits not heated": {"above": logits_not_heated},
    "one too few": {"fewest": one_too_few},
    "of equals the last": {"fewest": of_equals_the_last},
    "sums that miss a token": {"summed_by_block": sums_that_miss_a_token},
    "the next token": {"drawn": the_next_token},
    "the token of the next key": {"noisy_best": the_token_of_the_next_key},
    "what is left of the other": {"left": what_is_left_of_the_other},
    "the next token that is left": {"drawn_of_left": the_next_token_that_is_left},
    "the next kept token": {"drawn_of_kept": the_next_kept_token},
    "weights that are all one": {"weights_of_kept": weights_that_are_all_one},
    "nothing taken from kept tokens": {"left_of_kept": of_which_nothing_is_taken},
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_noticed(name, monkeypatch):
    sound = {name: each for name, each in vars(kernels).items() if not name.startswith("_")}
    faulty = SimpleNamespace(**{**sound, **FAULTS[name]})
    for module in (select, gumbel, draws, summed_rows):
        monkeypatch.setattr(module, "kernels", lambda: faulty)
    assert not agree()

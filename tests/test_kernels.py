"""The loops that numba compiles give what numpy and plain torch give, and faults in them are noticed."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from cospec import SamplingParams
from cospec.core import draws, gumbel, kernels, select
from cospec.core.transforms import warp, warped

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


def summed(row: torch.Tensor, temperature: float = 1.0):
    highest_in = np.empty(-(-len(row) // kernels.BLOCK), dtype=np.float32)
    return *kernels.summed(row.numpy(), math.log2(math.e) / temperature, highest_in), highest_in


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("size", SIZES)
def test_a_row_is_summed_up_to_rounding_and_its_maxima_are_exact(kind, size):
    row = row_of(kind, size)
    for temperature in (0.1, 0.7, 0.8, 1.0, 1.3, 5.0):
        highest, total, highest_in = summed(row, temperature)
        expected = ((row.double() - row.max()) / temperature).exp().sum()
        assert highest == row.max()
        assert total == pytest.approx(float(expected), rel=select.ROUNDING / 2)
        maxima = [max(float(part.max()), kernels.LEAST) for part in row.split(kernels.BLOCK)]
        assert highest_in.tolist() == maxima


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
        _, _, highest_in = summed(row)
        for floor in (*row.sort().values[[0, size // 2, -1]].clamp(min=-1e30).tolist(), float(kernels.LEAST)):
            ids = np.empty(size + 1, dtype=np.int64)
            count = above(row.numpy(), highest_in, floor, ids)
            if ids[:count].tolist() != np.flatnonzero(row.numpy() >= np.float32(floor)).tolist():
                return False
    return True


@pytest.mark.parametrize("size", SIZES)
def test_the_tokens_above_a_floor_are_those_of_numpy_the_floor_itself_included(size):
    assert finds_all_above(kernels.above, size)


def only_above_the_floor(row, highest_in, floor, ids):
    return kernels.above(row, highest_in, float(np.nextafter(np.float32(floor), np.float32(math.inf))), ids)


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
    places = np.empty(len(values) + 1, dtype=np.int64)
    count = kernels.fewest(values, highest_left, least, most, places)
    return places[:count].tolist() if count > 0 else count


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
    hot = select.HotRow.of(row.numpy(), temperature, is_summed=True)
    ids = np.arange(0, 9_001, 7)
    assert np.array_equal(hot.values(ids), select.heated(row, temperature).numpy()[ids])


@pytest.mark.parametrize("size", SIZES)
def test_the_hashes_that_reach_a_number_are_those_of_numpy(size):
    for key in KEYS:
        hashes = gumbel.first_bits(key, size)
        for least in np.sort(hashes)[[0, size // 2, -1]]:
            assert gumbel.hashed_above(key, size, least).tolist() == np.flatnonzero(hashes >= least).tolist()


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


def a_sum_that_is_short(row, factor, highest_in):
    highest, total = kernels.summed(row, factor, highest_in)
    return highest, 0.99 * total


def a_block_without_its_last_token(row, factor, highest_in):
    found = kernels.summed(row, factor, highest_in)
    parts = [row[at : at + kernels.BLOCK] for at in range(0, len(row), kernels.BLOCK)]
    highest_in[:] = [part[:-1].max() if len(part) > 1 else part[0] for part in parts]
    return found


def the_token_beside(row, highest_in, floor, ids):
    count = kernels.above(row, highest_in, floor, ids)
    ids[:count] = np.minimum(ids[:count] + 1, len(row) - 1)
    return count


def the_hash_beside(key, vocab_size, least, ids):
    count = kernels.hashed_above(key, vocab_size, least, ids)
    ids[:count] = np.minimum(ids[:count] + 1, vocab_size - 1)
    return count


def the_logit_beside(row, ids, highest, temperature, values):
    kernels.heated(row, np.minimum(ids + 1, len(row) - 1), highest, temperature, values)


def one_too_few(values, highest_left, least_sum, most_sum, places):
    return kernels.fewest(values, highest_left, least_sum, most_sum, places) - 1


def of_equals_the_last(values, highest_left, least_sum, most_sum, places):
    """The values from behind."""
    count = kernels.fewest(values[::-1].copy(), highest_left, least_sum, most_sum, places)
    places[:count] = len(values) - 1 - places[:count][::-1]
    return count


def sums_that_miss_a_token(row, sums):
    kernels.summed_by_block(row, sums)
    sums[len(sums) // 2] -= row[len(sums) // 2 * kernels.BLOCK :][: kernels.BLOCK].max()


FAULTS = {
    "a sum that is short": {"summed": a_sum_that_is_short},
    "a block without its last token": {"summed": a_block_without_its_last_token},
    "the token beside": {"above": the_token_beside},
    "the hash beside": {"hashed_above": the_hash_beside},
    "the logit beside": {"heated": the_logit_beside},
    "one too few": {"fewest": one_too_few},
    "of equals the last": {"fewest": of_equals_the_last},
    "sums that miss a token": {"summed_by_block": sums_that_miss_a_token},
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_noticed(name, monkeypatch):
    sound = ("BLOCK", "summed", "above", "hashed_above", "heated", "fewest", "summed_by_block")
    faulty = SimpleNamespace(**{**{each: getattr(kernels, each) for each in sound}, **FAULTS[name]})
    for module in (select, gumbel, draws):
        monkeypatch.setattr(module, "kernels", lambda: faulty)
    assert not agree()

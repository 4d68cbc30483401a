"""The loops that numba compiles give what numpy and plain torch give, and faults in them are noticed."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from cospec import SamplingParams
from cospec.core import gumbel, kernels, select
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
        assert math.isnan(select.HotRow.of(row, 0.8, is_summed=True).highest)


def test_a_row_that_forbids_every_token_has_no_maximum():
    row = torch.full((9_001,), -math.inf)
    assert math.isnan(select.HotRow.of(row, 0.8, is_summed=True).highest)


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


FAULTS = {
    "a sum that is short": {"summed": a_sum_that_is_short},
    "a block without its last token": {"summed": a_block_without_its_last_token},
    "the token beside": {"above": the_token_beside},
    "the hash beside": {"hashed_above": the_hash_beside},
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_noticed(name, monkeypatch):
    sound = {each: getattr(kernels, each) for each in ("BLOCK", "summed", "above", "hashed_above")}
    faulty = SimpleNamespace(**{**sound, **FAULTS[name]})
    for module in (select, gumbel):
        monkeypatch.setattr(module, "kernels", lambda: faulty)
    assert not agree()

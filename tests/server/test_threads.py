"""Decoding leaves a core to the server where that costs it little."""

import time

import pytest
import torch

from cospec import Ensemble, toy
from cospec.server.threads import leave_a_core


class Timed(toy.FunctionRunner):
    """A model whose calls take as long as `seconds` says for the number of threads."""

    def __init__(self, seconds):
        super().__init__(4, lambda prefix: [0.0] * 4)
        self._seconds = seconds

    def feed(self, batch):
        time.sleep(self._seconds(torch.get_num_threads()))
        return super().feed(batch)


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (lambda threads: 0.004, 3),
        (lambda threads: 0.004 if threads == 4 else 0.012, 4),
        (lambda threads: 0.06, 4),
    ],
    ids=["short calls", "calls that gain from the last thread", "long calls"],
)
def test_a_thread_less_where_it_costs_little(seconds, expected):
    assert leave_a_core(Ensemble([Timed(seconds)])) == expected
    assert torch.get_num_threads() == expected


def test_the_only_thread_is_kept():
    torch.set_num_threads(1)
    assert leave_a_core(Ensemble([Timed(lambda threads: 0.001)])) == 1

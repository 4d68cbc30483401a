"""Cores are shared by members' calls and the server as is fastest."""

import threading
import time
from contextlib import nullcontext

import pytest
import torch

from cospec import Ensemble, toy
from cospec.members import Member
from cospec.server.threads import Cores, share_cores


class Timed(toy.FunctionRunner):
    """A model whose calls take as long as `seconds` says for the number of threads, on a core that it may share."""

    def __init__(self, seconds, core=None):
        super().__init__(4, lambda prefix: [0.0] * 4)
        self._seconds = seconds
        self._core = core or nullcontext()

    def feed(self, batch):
        with self._core:
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
    assert share_cores(Ensemble([Timed(seconds)]), 32) == Cores(expected)
    assert torch.get_num_threads() == expected


def test_the_only_thread_is_kept():
    torch.set_num_threads(1)
    assert share_cores(Ensemble([Timed(lambda threads: 0.001)] * 2), 32) == Cores(1)


def test_members_are_called_side_by_side_where_that_is_faster():
    ensemble = Ensemble([Timed(lambda threads: 0.012), Timed(lambda threads: 0.012)])
    assert share_cores(ensemble, 32) == Cores(2, calls=2)
    assert torch.get_num_threads() == 2


def test_members_that_hold_each_other_up_are_called_one_after_the_other():
    core = threading.Lock()
    ensemble = Ensemble([Timed(lambda threads: 0.004, core), Timed(lambda threads: 0.004, core)])
    assert share_cores(ensemble, 32) == Cores(3)


def test_members_that_need_all_threads_are_called_one_after_the_other():
    ensemble = Ensemble([Timed(lambda threads: 0.016 / threads), Timed(lambda threads: 0.016 / threads)])
    assert share_cores(ensemble, 32) == Cores(3)


def test_members_of_equal_weights_are_one_call():
    runner = Timed(lambda threads: 0.004)
    assert share_cores(Ensemble([runner, runner]), 32) == Cores(3)


def test_one_text_at_a_time_leaves_nothing_to_be_called_side_by_side():
    ensemble = Ensemble([Timed(lambda threads: 0.004), Timed(lambda threads: 0.004)])
    assert share_cores(ensemble, 1) == Cores(3)


def test_the_trials_give_back_what_they_took():
    """With a prompt of its own a member reads for several rounds, in which some texts wait."""
    runners = [Timed(lambda threads: 0.001), Timed(lambda threads: 0.001)]
    hints = [Member(model=runners[0], prompt=[1] * 90), Member(model=runners[1])]
    opened, closed = [], []
    for runner in runners:
        runner.open = lambda own=runner.open: opened.append(1) or own()
        runner.close = lambda slot, own=runner.close: closed.append(1) or own(slot)
    share_cores(Ensemble(hints), 32)
    assert len(closed) == len(opened) > 0

"""Cores are shared by members' calls and the server as is fastest."""

import threading
from collections import Counter

import pytest
import torch

from cospec import Ensemble, toy
from cospec.members import Member
from cospec.server.threads import Cores, share_cores


class Clock:
    """The seconds of calls, which nothing else on this machine holds up. Calls in other threads are side by side."""

    def __init__(self):
        self._alone = 0.0
        self._side_by_side = Counter()
        self._lock = threading.Lock()

    def spend(self, seconds, core):
        with self._lock:
            if threading.current_thread() is threading.main_thread():
                self._alone += seconds
            else:
                self._side_by_side[core] += seconds

    def perf_counter(self):
        return self._alone + max(self._side_by_side.values(), default=0.0)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("cospec.server.threads.time", clock)
    return clock


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


class Timed(toy.FunctionRunner):
    """A model whose calls take as long as `seconds` says for the number of threads, on a core that it may share."""

    def __init__(self, clock, seconds, core=None):
        super().__init__(4, lambda prefix: [0.0] * 4)
        self._clock = clock
        self._seconds = seconds
        self._core = core or id(self)

    def feed(self, batch):
        self._clock.spend(self._seconds(torch.get_num_threads()), self._core)
        return super().feed(batch)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (lambda threads: 0.004, 3),
        (lambda threads: 0.004 if threads == 4 else 0.012, 4),
        (lambda threads: 0.06, 4),
    ],
    ids=["short calls", "calls that gain from the last thread", "long calls"],
)
def test_a_thread_less_where_it_costs_little(clock, seconds, expected):
    assert share_cores(Ensemble([Timed(clock, seconds)]), 32) == Cores(expected)
    assert torch.get_num_threads() == expected


def test_the_only_thread_is_kept(clock):
    torch.set_num_threads(1)
    assert share_cores(Ensemble([Timed(clock, lambda threads: 0.001)] * 2), 32) == Cores(1)


def test_members_are_called_side_by_side_where_that_is_faster(clock):
    ensemble = Ensemble([Timed(clock, lambda threads: 0.004), Timed(clock, lambda threads: 0.004)])
    assert share_cores(ensemble, 32) == Cores(2, calls=2)
    assert torch.get_num_threads() == 2


def test_members_that_hold_each_other_up_are_called_one_after_the_other(clock):
    ensemble = Ensemble([Timed(clock, lambda threads: 0.004, core="one") for _ in range(2)])
    assert share_cores(ensemble, 32) == Cores(3)


def test_members_that_need_all_threads_are_called_one_after_the_other(clock):
    ensemble = Ensemble([Timed(clock, lambda threads: 0.016 / threads**2) for _ in range(2)])
    assert share_cores(ensemble, 32) == Cores(4)


def test_members_of_equal_weights_are_one_call(clock):
    runner = Timed(clock, lambda threads: 0.004)
    assert share_cores(Ensemble([runner, runner]), 32) == Cores(3)


def test_one_text_at_a_time_leaves_nothing_to_be_called_side_by_side(clock):
    ensemble = Ensemble([Timed(clock, lambda threads: 0.004), Timed(clock, lambda threads: 0.004)])
    assert share_cores(ensemble, 1) == Cores(3)


def test_the_trials_give_back_what_they_took(clock):
    """With a prompt of its own a member reads for several rounds, in which some texts wait."""
    runners = [Timed(clock, lambda threads: 0.001), Timed(clock, lambda threads: 0.001)]
    hints = [Member(model=runners[0], prompt=[1] * 90), Member(model=runners[1])]
    opened, closed = [], []
    for runner in runners:
        runner.open = lambda own=runner.open: opened.append(1) or own()
        runner.close = lambda slot, own=runner.close: closed.append(1) or own(slot)
    share_cores(Ensemble(hints), 32)
    assert len(closed) == len(opened) > 0

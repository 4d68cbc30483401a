"""How many threads pay: as many as torch has on a quiet machine, fewer where others use the cores."""

import types

import pytest
import torch

from cospec.cli import cores
from cospec.cli.options import LocalOptions
from cospec.runner import threads


@pytest.fixture
def clock(monkeypatch):
    """Threads, and seconds of a product by their number; products take the clock's time alone."""
    now, num, seconds = [0.0], [4], {}

    class Rows:
        def __matmul__(self, other):
            now[0] += seconds[num[0]]

    fake = types.SimpleNamespace(
        get_num_threads=lambda: num[0],
        set_num_threads=lambda count: num.__setitem__(0, count),
        ones=lambda *shape: Rows(),
        Tensor=torch.Tensor,
    )
    monkeypatch.setattr(threads, "torch", fake)
    monkeypatch.setattr(cores, "torch", fake)
    monkeypatch.setattr(threads, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    return types.SimpleNamespace(now=now, num=num, seconds=seconds)


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({1: 4e-3, 2: 2e-3, 4: 1e-3}, 4),
        # Memory is the bound: half of the threads are as fast, and prompts need all.
        ({1: 2e-3, 2: 1e-3, 4: 1e-3}, 4),
        # Two cores are free.
        ({1: 4e-3, 2: 2e-3, 4: 50e-3}, 2),
        ({1: 4e-3, 2: 30e-3, 4: 90e-3}, 1),
    ],
)
def test_fewer_threads_are_taken_where_they_are_clearly_faster(clock, seconds, best):
    clock.seconds.update(seconds)
    assert threads.paying_threads() == best
    assert clock.num == [4]


def test_finding_out_takes_a_tenth_of_a_second_on_a_quiet_machine_and_seconds_on_any(clock):
    clock.seconds.update({1: 4e-3, 2: 2e-3, 4: 1e-3})
    threads.paying_threads()
    assert clock.now[0] < 0.1
    clock.now[0] = 0.0
    clock.seconds.update({1: 0.4, 2: 0.2, 4: 0.1})
    threads.paying_threads()
    assert clock.now[0] < 2 * threads.MOST_SECONDS


@pytest.mark.parametrize(("given", "expected"), [(None, 1), (3, 4)])
def test_the_command_line_takes_them_and_says_so_unless_a_number_was_given(clock, monkeypatch, capsys, given, expected):
    clock.seconds.update({1: 4e-3, 2: 30e-3, 4: 90e-3})
    monkeypatch.setattr(LocalOptions, "build", lambda self: self)
    cores.built_on_free_cores(LocalOptions(threads=given))
    assert clock.num == [expected]
    assert ("1 of 4 CPU threads" in capsys.readouterr().err) == (given is None)


def test_torch_is_left_as_it_was():
    before = torch.get_num_threads()
    assert 1 <= threads.paying_threads() <= before
    assert torch.get_num_threads() == before

"""Models given by a function."""

import math

import numpy as np
import pytest
import torch

from cospec.errors import MemberFailed
from cospec.runner import Feed, Slot, toy


def counting(prefix: tuple[int, ...]) -> list[float]:
    """Logits that tell their prefix: its length, its last token, its sum."""
    return [float(len(prefix)), float(prefix[-1]), float(sum(prefix))]


def fed(runner: toy.FunctionRunner, slot: Slot, tokens: list[int], rows: int = 1) -> list[list[float]]:
    return runner.feed([Feed(slot, tokens, rows)])[0].tolist()


def test_rows_are_the_function_of_each_prefix() -> None:
    runner = toy.FunctionRunner(3, counting)
    slot = runner.open()
    assert fed(runner, slot, [2, 0, 1], 2) == [[2, 0, 2], [3, 1, 3]]
    assert fed(runner, slot, [2], 1) == [[4, 2, 5]]
    assert slot.length == 4


def test_slots_are_apart_and_a_batch_keeps_its_order() -> None:
    runner = toy.FunctionRunner(3, counting)
    first, second = runner.open(), runner.open()
    fed(runner, first, [1])
    rows = runner.feed([Feed(second, [2, 2], 1), Feed(first, [0], 1)])
    assert [row.tolist() for row in rows] == [[[2, 2, 4]], [[2, 0, 1]]]


def test_trim_forgets_what_stands_behind() -> None:
    runner = toy.FunctionRunner(3, counting)
    slot = runner.open()
    fed(runner, slot, [2, 2, 2])
    runner.trim(slot, 1)
    assert slot.length == 1
    assert fed(runner, slot, [0]) == [[2, 0, 2]]


def test_a_closed_slot_holds_nothing() -> None:
    runner = toy.FunctionRunner(3, counting)
    slot = runner.open()
    fed(runner, slot, [2, 2])
    runner.close(slot)
    assert fed(runner, runner.open(), [1]) == [[1, 1, 1]]


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_logits_may_be_lists_arrays_or_tensors_and_forbid_tokens(kind: type) -> None:
    runner = toy.FunctionRunner(3, lambda prefix: kind([0.5, -math.inf, 1.0]))
    row = runner.feed([Feed(runner.open(), [1], 1)])[0]
    assert row.dtype == torch.float64
    assert row.tolist() == [[0.5, -math.inf, 1.0]]


def test_no_rows_may_be_wanted() -> None:
    runner = toy.FunctionRunner(3, counting)
    assert runner.feed([Feed(runner.open(), [1], 0)])[0].shape == (0, 3)


def test_a_row_of_another_size_is_told() -> None:
    runner = toy.FunctionRunner(4, counting)
    slot = runner.open()
    with pytest.raises(MemberFailed, match=r"logits of shape \[3\] for \(1, 2\); want \[4\]"):
        runner.feed([Feed(slot, [1, 2], 1)])


def test_a_function_that_raises_leaves_lengths_as_they_were() -> None:
    def brittle(prefix: tuple[int, ...]) -> list[float]:
        return [1 / (3 - len(prefix)), 0.0]

    runner = toy.FunctionRunner(2, brittle)
    slots = [runner.open(), runner.open()]
    with pytest.raises(ZeroDivisionError):
        runner.feed([Feed(slots[0], [1], 1), Feed(slots[1], [1, 1, 1], 1)])
    assert [slot.length for slot in slots] == [0, 0]


def test_the_function_is_asked_once_for_a_prefix() -> None:
    asked: list[tuple[int, ...]] = []

    def asking(prefix: tuple[int, ...]) -> list[float]:
        asked.append(prefix)
        return counting(prefix)

    runner = toy.FunctionRunner(3, asking)
    for _ in range(3):
        fed(runner, runner.open(), [1, 2], 2)
    assert asked == [(1,), (1, 2)]


def test_a_row_changed_by_its_reader_is_given_unchanged_to_the_next() -> None:
    kept = torch.zeros(3, dtype=torch.float64)
    runner = toy.FunctionRunner(3, lambda prefix: kept)
    runner.feed([Feed(runner.open(), [1], 1)])[0].fill_(9)
    assert fed(runner, runner.open(), [1]) == [[0, 0, 0]]
    assert kept.tolist() == [0, 0, 0]


def test_a_table_depends_on_the_last_tokens_and_the_seed_alone() -> None:
    runner, same, other = (toy.TableRunner(3, order=2, seed=seed) for seed in (1, 1, 2))
    long = fed(runner, runner.open(), [0, 2, 1])
    assert fed(runner, runner.open(), [2, 1]) == long
    assert fed(same, same.open(), [2, 1]) == long
    assert fed(other, other.open(), [2, 1]) != long
    assert fed(runner, runner.open(), [1]) != long


def test_a_slot_of_another_runner_is_no_slot() -> None:
    with pytest.raises(AssertionError, match="another runner"):
        toy.FunctionRunner(3, counting).feed([Feed(Slot(), [1], 1)])

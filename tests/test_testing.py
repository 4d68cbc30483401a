"""The shipped checks: they pass what is right, and say what is wrong."""

import dataclasses

import pytest
import torch

from cospec import Contrastive, Guided, Mixture, Product, Schedule
from cospec.schedule import Plan, schedule_names
from cospec.schedule.fixed import Fixed
from cospec.schedule.plain import Plain
from cospec.testing import check_combination, check_runner, check_schedule

from .toys import Wrapped, table


@pytest.mark.parametrize("name", schedule_names())
def test_schedules_pass_with_a_plan_that_leaves_the_rest_to_them(name):
    assert check_schedule(name, [Plan(schedule=name)]) > 3


@pytest.mark.long
@pytest.mark.parametrize("name", schedule_names())
def test_schedules_pass_with_all_plans_that_they_name(name):
    assert check_schedule(name) > 10


class Greedy(Schedule):
    """Settles by the first member alone."""

    name = "greedy"

    def cells(self, sheet, position):
        return (0,)


class Counting(Plain):
    name = "counting"
    asked = 0

    def turn(self, sheet):
        Counting.asked += 1
        return [0, 1][: 1 + Counting.asked % 2]


class Meddling(Schedule):
    name = "meddling"

    def turn(self, sheet):
        sheet.forget()
        sheet.num_changes += 1
        return super().turn(sheet)


class Idle(Schedule):
    name = "idle"

    def turn(self, sheet):
        return []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dropping(Fixed):
    """Never puts an unlikely draft to verification: it stops asking for rows where the drafts are bad."""

    name = "dropping"

    def cells(self, sheet, position):
        return (0,) if len(sheet.drafts) > 1 else sheet.members


class Deaf(Fixed):
    name = "deaf"

    def on_settled(self, sheet, tokens):
        raise ValueError("boom")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decided(Fixed):
    """Once it has seen a token it holds that the first member knows the rest."""

    name = "decided"
    seen: list[int] = dataclasses.field(default_factory=list)

    def on_settled(self, sheet, tokens):
        self.seen.extend(token.token for token in tokens)

    def cells(self, sheet, position):
        return (0,) if self.seen else sheet.members


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        (Deaf(lane=0, gamma=2), "raised ValueError: boom"),
        (Decided(lane=0, gamma=2), "while the schedule learns"),
        (Greedy, "not distributed as r"),
        (Counting, "gave two answers"),
        (Meddling, "changed the sheet"),
        (Idle, "made no progress"),
        (Dropping(lane=0, gamma=2), "not distributed as r"),
    ],
)
def test_a_faulty_schedule_is_told_what_is_wrong(schedule, told):
    with pytest.raises(AssertionError, match=told):
        check_schedule(schedule)


@pytest.mark.parametrize(
    "combination", [Mixture([0.3, 0.7]), Product([0.5, 1.5]), Contrastive(0.3, plausibility=0.2), Guided(1.4)]
)
def test_combinations_pass(combination):
    assert check_combination(combination, 2) > 10


class Unnormalised(Mixture):
    def log_probs(self, logits):
        return super().log_probs(logits) + 0.1


class Neighbourly(Mixture):
    def log_probs(self, logits):
        return torch.log_softmax(super().log_probs(logits) + logits.mean(1, keepdim=True)[0], -1)


class Raw(Mixture):
    def log_probs(self, logits):
        return torch.log_softmax(logits.logsumexp(0) - torch.finfo(torch.float64).eps, -1)


@pytest.mark.parametrize(
    ("kind", "told"), [(Unnormalised, "sum to"), (Neighbourly, "depends on others"), (Raw, "a constant added")]
)
def test_a_faulty_combination_is_told_what_is_wrong(kind, told):
    with pytest.raises(AssertionError, match=told):
        check_combination(kind([0.5, 0.5]), 2)


def test_runners_pass():
    assert check_runner(table(1)) > 10


class Forgetful(Wrapped):
    def trim(self, slot, length):
        pass


class Narrow(Wrapped):
    def feed(self, batch):
        return [rows.half() for rows in self.runner.feed(batch)]


class Mixed(Wrapped):
    """Gives the first slot's row to all of a batch."""

    def feed(self, batch):
        rows = self.runner.feed(batch)
        return [rows[0][-1:].expand(feed.rows, -1) for feed in batch]


class Shared(Wrapped):
    """A copy that goes on with the slot it was taken of."""

    copies = True

    def copy(self, source, slot, length):
        slot.tokens = source.tokens
        self.runner.trim(slot, length)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Shared, "that was copied"),
        (Forgetful, "after a trim"),
        (Narrow, "float32 or wider"),
        (Mixed, "a batch of unequal prompts"),
    ],
)
def test_a_faulty_runner_is_told_what_is_wrong(kind, told):
    with pytest.raises(AssertionError, match=told):
        check_runner(kind(table(1), lambda: None))

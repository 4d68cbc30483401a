"""The laws hold with models whose state cannot be trimmed, only restored."""

from contextlib import AbstractContextManager
from unittest import mock

import pytest
import torch

from cospec.runner.hf.batch import RaggedBatch
from cospec.runner.hf.rollback import StateLedger, StatePlan

from .cases import BLENDS, Case
from .recurrent import ForgetfulRunner, RecurrentRunner, watched_losses
from .test_faults import NOTICEABLE
from .test_laws import PLANS, ROUNDING, VERIFICATIONS, case

SOME_PLANS = [
    "plain",
    "fixed 2 by the second member",
    "fixed 3 by a drafter",
    "fixed by a drafter, as far as pays",
    "alternate 2 from the second",
    "cascade 2, 2",
]


def recurrent(
    blend: str, plan: dict[str, object], verification: str, runner: type[RecurrentRunner] = RecurrentRunner
) -> Case:
    return case(BLENDS[blend], plan, verification, max_tokens=3).but(runner=runner)


@pytest.mark.parametrize("verification", VERIFICATIONS)
@pytest.mark.parametrize("plan", SOME_PLANS)
def test_the_text_has_the_law_of_naive_decoding(plan, verification):
    assert recurrent("mixture", PLANS[plan], verification).distance() < ROUNDING


@pytest.mark.parametrize("verification", VERIFICATIONS)
@pytest.mark.parametrize("plan", ["alternate 3", "cascade 2, 2"])
def test_so_has_the_text_of_members_that_are_fed_again(plan, verification):
    with watched_losses() as is_lost:
        assert recurrent("mixture", PLANS[plan], verification, ForgetfulRunner).distance() < ROUNDING
    assert any(is_lost)


@pytest.mark.parametrize("drafting", [{}, {"gamma": 1, "proposer": "drafter"}])
def test_a_mixture_may_be_drawn_member_by_member(drafting):
    assert recurrent("mixture", {"schedule": "mixture", **drafting}, "token").distance() < ROUNDING


def test_an_expert_that_decides_alone_leaves_the_amateur_behind():
    assert recurrent("plausible, strictly", PLANS["fixed 2 by a drafter"], "block").distance() < ROUNDING


def not_restored() -> AbstractContextManager[object]:
    """What was rejected stays in the state."""
    plan = StateLedger.plan

    def faulty(self: StateLedger, batch: RaggedBatch, settled: list[int]) -> StatePlan:
        for slot, start in zip(batch.slots, batch.starts, strict=True):
            if slot in self._held:
                self._held[slot] = self._held[slot]._replace(current=start)
        return plan(self, batch, settled)

    return mock.patch.object(StateLedger, "plan", faulty)


def restored_in_place() -> AbstractContextManager[object]:
    """The state goes on in the snapshot's place."""
    return mock.patch.object(
        StatePlan, "targets", property(lambda self: torch.tensor([held.place for held in self.after]))
    )


def lost_and_not_fed_again() -> AbstractContextManager[object]:
    """The state that is there is taken for one that is lost."""
    start = StateLedger.start

    def faulty(self: StateLedger, slot: int, length: int) -> int:
        held = self._held.get(slot)
        if start(self, slot, length) < length:
            self._held[slot] = held._replace(snapshot=length, current=length)
        return length

    return mock.patch.object(StateLedger, "start", faulty)


@pytest.mark.parametrize(
    ("fault", "plan", "runner"),
    [
        (not_restored, "fixed 3 by a drafter", RecurrentRunner),
        (restored_in_place, "fixed 3 by a drafter", RecurrentRunner),
        (lost_and_not_fed_again, "cascade 2, 2", ForgetfulRunner),
        (lost_and_not_fed_again, "alternate 3", ForgetfulRunner),
    ],
)
def test_the_law_notices(fault, plan, runner):
    given = recurrent("mixture", PLANS[plan], "token", runner)
    with fault():
        assert given.distance() > NOTICEABLE

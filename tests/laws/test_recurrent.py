"""The laws hold with models whose state cannot be trimmed, only restored."""

from contextlib import AbstractContextManager
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cospec.runner import Feed
from cospec.runner.hf.batch import RaggedBatch
from cospec.runner.hf.rollback import StateLedger, StatePlan
from cospec.runner.toy import FunctionRunner

from .cases import BLENDS, Case, model
from .recurrent import LONGEST, ForgetfulRunner, RecurrentRunner, watched_losses
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


@pytest.mark.parametrize("runner", [RecurrentRunner, ForgetfulRunner])
@pytest.mark.parametrize(
    ("gamma", "proposer", "verification"),
    [
        (None, None, "token"),
        (1, "drafter", "token"),
        (3, "drafter", "block"),
        ("auto", "drafter", "token"),
        (2, "each", "block"),
    ],
)
def test_a_mixture_may_be_drawn_member_by_member(gamma, proposer, verification, runner):
    plan = {"schedule": "mixture", "gamma": gamma, "proposer": proposer}
    assert recurrent("mixture", plan, verification, runner).distance() < ROUNDING


TURN = st.tuples(st.integers(1, 4), st.integers(0, 4), st.integers(0, 4))


@pytest.mark.parametrize("capacity", [1, 2, 5])
@given(turns=st.lists(TURN, min_size=2, max_size=8), tokens=st.randoms(use_true_random=False))
def test_after_any_history_of_drafts_and_rejections_rows_are_those_of_the_text(capacity, turns, tokens):
    """turns: tokens that are fed, how many more of the text are settled then, and how many of the others are
    rejected."""
    runner, plain = (kind(3, model(1)) for kind in (RecurrentRunner, FunctionRunner))
    with mock.patch.object(RecurrentRunner, "capacity", capacity):
        slot = runner.open()
    text, settled = [], 0
    for num_fed, num_settled, num_rejected in turns:
        fed = [tokens.randrange(3) for _ in range(min(num_fed, LONGEST - len(text)))]
        if not fed:
            break
        (rows,) = runner.feed([Feed(slot, fed, len(fed), settled=settled)])
        text += fed
        (expected,) = plain.feed([Feed(plain.open(), text, len(fed))])
        assert torch.equal(rows, expected)
        settled = min(settled + num_settled, len(text))
        del text[max(settled, len(text) - num_rejected) :]
        runner.trim(slot, len(text))


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

"""A text may change its schedule where nothing is drafted, as `auto` does, and keeps its law."""

from dataclasses import dataclass, replace
from unittest import mock

import pytest

from cospec import Engine, Mixture, Request, SamplingParams
from cospec.core.sampling import Draws
from cospec.core.sheet import Sequence
from cospec.schedule import DrawnMember, Plain, Schedule

from . import naive
from .cases import Blend, Case
from .test_isolation import OWN_PARAMS, written, written_alone


@dataclass(frozen=True)
class Switching:
    """One member at a time with a drafter; but plain at one position, if it may be left there."""

    drawn: DrawnMember
    at: int
    name = "switching"

    def _now(self, sequence: Sequence) -> Schedule:
        is_clean = sequence.position == self.at and not sequence.drafts
        return Plain() if is_clean and self.drawn.may_be_left(sequence) else self.drawn

    def turn(self, sequence: Sequence) -> object:
        return self._now(sequence).turn(sequence)

    def may_keep_up(self, sequence: Sequence) -> bool:
        return self._now(sequence).may_keep_up(sequence)

    def proposer(self, sequence: Sequence) -> object:
        return self._now(sequence).proposer(sequence)

    def refiner(self, sequence: Sequence) -> None:
        return None

    def cells(self, sequence: Sequence, position: int) -> object:
        return self._now(sequence).cells(sequence, position)

    def reach(self, sequence: Sequence, lane: int) -> int:
        return self._now(sequence).reach(sequence, lane)


@dataclass(frozen=True, kw_only=True)
class SwitchingCase(Case):
    at: int

    def request(self, draws: Draws) -> Request:
        request = super().request(draws)
        schedule = Switching(request.policy.schedule, self.at)
        return replace(request, policy=replace(request.policy, schedule=schedule))


def case(**settings: object) -> SwitchingCase:
    return SwitchingCase(
        blend=Blend(Mixture([0.3, 0.7]), naive.mixture(0.3, 0.7), (33, 34)),
        schedule="mixture",
        params=SamplingParams(max_tokens=4, ignore_eos=True),
        **{"proposer": "drafter", **settings},
    )


@pytest.mark.parametrize("proposer", ["drafter", "each"])
@pytest.mark.parametrize("verification", ["token", "block"])
@pytest.mark.parametrize(("gamma", "at"), [(1, 1), (2, 2), (1, 2), (3, 1)])
def test_the_law_holds_over_a_change_of_schedule(gamma, at, verification, proposer):
    assert case(gamma=gamma, at=at, verification=verification, proposer=proposer).distance() < 1e-9


@pytest.mark.parametrize(("gamma", "at"), [(1, 1), (2, 2)])
def test_it_does_not_if_a_member_that_was_drawn_loses_its_turn(gamma, at):
    with mock.patch.object(DrawnMember, "may_be_left", return_value=True):
        assert case(gamma=gamma, at=at).distance() > 0.001


@pytest.mark.parametrize("at", [1, 2, 5])
def test_texts_side_by_side_may_leave_a_mixture_that_nobody_drafts_for(at):
    params = [SamplingParams(max_tokens=own["max_tokens"], ignore_eos=True) for own in OWN_PARAMS]
    cases = [case(at=at, proposer=None).but(params=own) for own in params]
    with mock.patch.object(Engine, "_extra", autospec=True, side_effect=Engine._extra) as extra:
        assert written(cases) == written_alone(cases)
    assert extra.called

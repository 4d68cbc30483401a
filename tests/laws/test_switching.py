"""A text may change its schedule where nothing is drafted, as `auto` does, and keeps its law."""

from dataclasses import dataclass, replace
from unittest import mock

import pytest

from cospec import Mixture, Request, SamplingParams, Schedule
from cospec.core.draws import Draws
from cospec.core.feeding import Feeding
from cospec.core.sheet import Sheet
from cospec.schedule.mixture import DrawnMember
from cospec.schedule.plain import Plain

from ..properties import crossed
from . import naive
from .cases import TOKENS, Blend, Case
from .test_isolation import OWN_PARAMS, written, written_alone


@dataclass(frozen=True)
class Switching(Schedule):
    """One member at a time with a drafter; but plain at one position, if it may be left there."""

    drawn: DrawnMember
    at: int
    name = "switching"

    def _now(self, sheet: Sheet) -> Schedule:
        is_clean = sheet.position == self.at and not sheet.drafts
        return Plain() if is_clean and self.drawn.may_be_left(sheet) else self.drawn

    def turn(self, sheet: Sheet) -> object:
        return self._now(sheet).turn(sheet)

    def syncs_idle_members(self, sheet: Sheet) -> bool:
        return self._now(sheet).syncs_idle_members(sheet)

    def proposer(self, sheet: Sheet) -> object:
        return self._now(sheet).proposer(sheet)

    def refiner(self, sheet: Sheet) -> None:
        return None

    def cells(self, sheet: Sheet, position: int) -> object:
        return self._now(sheet).cells(sheet, position)

    def reach(self, sheet: Sheet, lane: int) -> int:
        return self._now(sheet).reach(sheet, lane)


@dataclass(frozen=True, kw_only=True)
class SwitchingCase(Case):
    at: int

    def request(self, draws: Draws) -> Request:
        request = super().request(draws)
        return replace(request, schedule=Switching(request.schedule, self.at))


def case(**settings: object) -> SwitchingCase:
    return SwitchingCase(
        blend=Blend(Mixture([0.3, 0.7]), naive.mixture(0.3, 0.7), (33, 34)),
        schedule="mixture",
        params=SamplingParams(max_tokens=TOKENS, ignore_eos=True),
        **{"proposer": "drafter", **settings},
    )


@crossed(
    "gamma_and_place, verification, proposer", [(1, 1), (2, 2), (1, 2), (3, 1)], ["token", "block"], ["drafter", "each"]
)
def test_the_law_holds_over_a_change_of_schedule(gamma_and_place, verification, proposer):
    gamma, at = gamma_and_place
    assert case(gamma=gamma, at=at, verification=verification, proposer=proposer).distance() < 1e-9


@pytest.mark.parametrize(("gamma", "at"), [(1, 1), (2, 2)])
def test_it_does_not_if_a_member_that_was_drawn_loses_its_turn(gamma, at):
    with mock.patch.object(DrawnMember, "may_be_left", return_value=True):
        assert case(gamma=gamma, at=at).distance() > 0.001


@pytest.mark.parametrize("at", [1, 2, 5])
def test_texts_side_by_side_may_leave_a_mixture_that_nobody_drafts_for(at):
    params = [SamplingParams(max_tokens=own["max_tokens"], ignore_eos=True) for own in OWN_PARAMS]
    cases = [case(at=at, proposer=None).but(params=own) for own in params]
    add = Feeding._add_idle_members
    with mock.patch.object(Feeding, "_add_idle_members", autospec=True, side_effect=add) as added:
        assert written(cases) == written_alone(cases)
    assert added.called

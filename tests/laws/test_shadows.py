"""Drafters that are fed for what their rows say alone, and draft nothing, change no law."""

from dataclasses import dataclass, replace

import pytest

from cospec import Request, Schedule
from cospec.core.draws import Draws
from cospec.core.sheet import Sheet

from .cases import BLENDS, TOKENS, Case
from .test_isolation import OWN_PARAMS, written, written_alone
from .test_switching import SwitchingCase, case


class Shadowing:
    """Another schedule, under which every drafter without a row is a shadow, in each round that feeds members."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def __getattr__(self, name: str) -> object:
        return getattr(self._schedule, name)

    def shadows(self, sheet: Sheet) -> list[int]:
        return [i for i in sheet.drafters if not sheet.lanes[i].has(sheet.position)]


@dataclass(frozen=True, kw_only=True)
class Shadowed(Case):
    def request(self, draws: Draws) -> Request:
        return shadowed(super().request(draws))


@dataclass(frozen=True, kw_only=True)
class SwitchingShadowed(SwitchingCase):
    def request(self, draws: Draws) -> Request:
        return shadowed(super().request(draws))


def shadowed(request: Request) -> Request:
    return replace(request, schedule=Shadowing(request.schedule))


def with_shadows(own: Case) -> Case:
    """The same, with shadows."""
    kind = SwitchingShadowed if isinstance(own, SwitchingCase) else Shadowed
    return kind(**vars(own))


def each(**settings: object) -> Case:
    """A mixture whose members have a drafter each, one of which has nothing to do most of the time."""
    plain = Case(blend=BLENDS["mixture"], schedule="mixture", proposer="each")
    return plain.but(params=replace(plain.params, max_tokens=TOKENS, ignore_eos=True), **settings)


@pytest.mark.larger
@pytest.mark.parametrize("verification", ["token", "block"])
@pytest.mark.parametrize("gamma", [1, 2, 3])
def test_the_law_holds_while_idle_drafters_are_shadowed(gamma, verification):
    assert with_shadows(each(gamma=gamma, verification=verification)).distance() < 1e-9


@pytest.mark.larger
@pytest.mark.parametrize(("gamma", "at"), [(1, 1), (2, 2), (3, 1)])
def test_it_holds_where_they_draft_again_after_another_schedule(gamma, at):
    assert with_shadows(case(gamma=gamma, at=at)).distance() < 1e-9


@pytest.mark.parametrize("own", [each(gamma=2), case(gamma=2, at=3)], ids=["each", "switching"])
def test_texts_side_by_side_are_the_same(own):
    params = [replace(own.params, max_tokens=given["max_tokens"]) for given in OWN_PARAMS]
    cases = [with_shadows(own.but(params=each_own)) for each_own in params]
    assert written(cases) == written_alone(cases)


def test_they_are_fed_more_and_propose_no_more():
    fed, proposed = zip(*(counted(own) for own in (each(gamma=2), with_shadows(each(gamma=2)))), strict=True)
    assert fed[1] > fed[0]
    assert proposed[1] == proposed[0]


def counted(own: Case) -> tuple[int, int]:
    """Tokens fed to drafters, and drafts that were put to verification, of a few texts."""
    engine, fed, proposed = own.engine(), 0, 0
    for seed in range(8):
        engine.add(own.request(Draws(seed)))
    while engine.num_live:
        for event in engine.step():
            if event.result is not None:
                fed += sum(stats.tokens_fed for stats in event.result.drafters.values())
                proposed += event.result.verified.proposed
    return fed, proposed

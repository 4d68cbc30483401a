"""Drafters that are fed for what their rows say alone, and draft nothing, change no law."""

from collections.abc import Sequence as Values
from dataclasses import dataclass, replace

import pytest

from cospec import Request
from cospec.core.observer import Round
from cospec.core.sampling import Draws
from cospec.core.sheet import Sequence, Settled

from .cases import BLENDS, Case
from .test_isolation import OWN_PARAMS, written, written_alone
from .test_switching import SwitchingCase, case


class Listener:
    """Listens to every drafter without a row, in each round that feeds members."""

    def on_call(self, lane: int, num_tokens: int, seconds: float) -> None: ...

    def on_round(self, done: Round) -> None: ...

    def on_settled(self, sequence: Sequence, settled: Values[Settled]) -> None: ...

    def listens_to(self, sequence: Sequence) -> list[int]:
        drafters = range(sequence.num_members, len(sequence.lanes))
        return [i for i in drafters if not sequence.lanes[i].has(sequence.position)]


LISTENER = Listener()


@dataclass(frozen=True, kw_only=True)
class Heard(Case):
    def request(self, draws: Draws) -> Request:
        return heard(super().request(draws))


@dataclass(frozen=True, kw_only=True)
class SwitchingHeard(SwitchingCase):
    def request(self, draws: Draws) -> Request:
        return heard(super().request(draws))


def heard(request: Request) -> Request:
    return replace(request, policy=replace(request.policy, observer=LISTENER))


def listened(own: Case) -> Case:
    """The same with a listener."""
    kind = SwitchingHeard if isinstance(own, SwitchingCase) else Heard
    return kind(**vars(own))


def each(**settings: object) -> Case:
    """A mixture whose members have a drafter each, one of which has nothing to do most of the time."""
    plain = Case(blend=BLENDS["mixture"], schedule="mixture", proposer="each")
    return plain.but(params=replace(plain.params, max_tokens=4, ignore_eos=True), **settings)


@pytest.mark.parametrize("verification", ["token", "block"])
@pytest.mark.parametrize("gamma", [1, 2, 3])
def test_the_law_holds_while_idle_drafters_are_heard(gamma, verification):
    assert listened(each(gamma=gamma, verification=verification)).distance() < 1e-9


@pytest.mark.parametrize(("gamma", "at"), [(1, 1), (2, 2), (3, 1)])
def test_it_holds_where_they_draft_again_after_another_schedule(gamma, at):
    assert listened(case(gamma=gamma, at=at)).distance() < 1e-9


@pytest.mark.parametrize("own", [each(gamma=2), case(gamma=2, at=3)], ids=["each", "switching"])
def test_texts_side_by_side_are_the_same(own):
    params = [replace(own.params, max_tokens=given["max_tokens"]) for given in OWN_PARAMS]
    cases = [listened(own.but(params=each_own)) for each_own in params]
    assert written(cases) == written_alone(cases)


def test_they_are_fed_more_and_propose_no_more():
    fed, proposed = zip(*(counted(own) for own in (each(gamma=2), listened(each(gamma=2)))), strict=True)
    assert fed[1] > fed[0]
    assert proposed[1] == proposed[0]


def counted(own: Case) -> tuple[int, int]:
    """Tokens fed to drafters, and drafts that were put to verification, of a few texts."""
    engine, fed, proposed = own.engine(), 0, 0
    for seed in range(8):
        engine.add(own.request(Draws(seed)))
    while engine.num_live:
        for live, update in engine.step():
            if update.is_finished:
                fed += sum(lane.tokens_fed for lane in live.sequence.lanes[live.sequence.num_members :])
                proposed += live.sequence.verified.proposed
    return fed, proposed

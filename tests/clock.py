"""A clock that tests move, so that what is measured is the same on every machine."""

import types
from dataclasses import dataclass

import pytest

from cospec.core import engine


class Clock:
    """Time passes where a test's runner says so, and nowhere else."""

    now = 0.0


def use_clock(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """These modules read the time there, which begins anew."""
    Clock.now = 0.0
    for module in modules:
        monkeypatch.setattr(f"{module}.time", types.SimpleNamespace(perf_counter=lambda: Clock.now))


@dataclass(frozen=True)
class EngineTime:
    """What the engine takes of its own: seconds of every round, of one that decides positions besides, and of each of
    these positions."""

    a_round: float
    deciding: float
    a_position: float

    def seconds(self, num_decided: float) -> float:
        """Of a round."""
        return self.a_round + (self.deciding + self.a_position * num_decided if num_decided else 0.0)

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let engines take it, by the test's clock."""
        settle, refine = engine.settle, engine.refine

        def settled(sheets):
            before = [len(sheet.drafts) for sheet in sheets]
            outcomes = settle(sheets)
            num_decided = sum(num - len(sheet.drafts) for num, sheet in zip(before, sheets, strict=True))
            Clock.now += self.seconds(num_decided + sum(map(bool, outcomes)))
            return outcomes

        def refined(sheet, member):
            Clock.now += self.seconds(len(sheet.drafts) - sheet.num_refined) - self.a_round
            refine(sheet, member)

        monkeypatch.setattr(engine, "settle", settled)
        monkeypatch.setattr(engine, "refine", refined)

"""A clock that tests move, so that what is measured is the same on every machine."""

import types

import pytest


class Clock:
    """Time passes where a test's runner says so, and nowhere else."""

    now = 0.0


def use_clock(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """These modules read the time there, which begins anew."""
    Clock.now = 0.0
    for module in modules:
        monkeypatch.setattr(f"{module}.time", types.SimpleNamespace(perf_counter=lambda: Clock.now))

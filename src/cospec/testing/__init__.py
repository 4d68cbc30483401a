"""Checks for whoever adds a schedule, a combination or a runner: the enumerated laws, and what the protocols ask.

`check_schedule`, `check_combination` and `check_runner` raise AssertionError with a sentence that says what is wrong,
and return how much was checked.
"""

from .combinations import check_combination
from .enumeration import engine_law
from .runners import check_runner
from .schedules import check_schedule

__all__ = ["check_combination", "check_runner", "check_schedule", "engine_law"]

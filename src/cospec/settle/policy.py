"""What decides a sequence's text and its speed."""

from dataclasses import dataclass

from ..combine import Combination
from ..observer import Observer
from ..schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The target, the schedule, the verification, and who is told."""

    combination: Combination
    schedule: Schedule
    verification: str
    observer: Observer | None = None

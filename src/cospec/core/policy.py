"""What decides a sequence's text and its speed."""

from dataclasses import dataclass

from ..schedule import Schedule
from .combine import Combination
from .observer import Observer
from .sampling import SamplingParams


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The target, the schedule, the verification, and who is told."""

    combination: Combination
    schedule: Schedule
    verification: str
    observer: Observer | None = None


def is_coupled(verification: str, params: SamplingParams) -> bool:
    """Whether a draft stands iff it is argmax of log r and the noise of its position.

    At temperature 0 there is no noise, target and drafts are each certain of one token, and every verification comes to
    this one, which needs no probability.
    """
    return verification == "coupled" or params.temperature == 0

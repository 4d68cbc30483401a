"""`plain`: no drafts. The baseline of every claim."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InvalidSchedule
from .base import Schedule
from .plan import Plan, Setting


@dataclass(frozen=True)
class Plain(Schedule):
    """Feed every member the last token, settle, repeat. All its answers are the defaults."""

    name = "plain"

    @classmethod
    def make(cls, plan: Plan, setting: Setting) -> "Plain":
        """A proposer is set aside: it belongs to the other schedules of the ensemble."""
        if plan.gamma is not None:
            raise InvalidSchedule(f"plain drafts nothing, so gamma {plan.gamma} has no meaning; use fixed or alternate")
        return cls()

    @classmethod
    def verified(cls, setting: Setting) -> Sequence[Plan]:
        """None: it is what the others are compared with."""
        return []

"""Schedules: who is fed next, who proposes, and which cells settle a position."""

from .pace import Pace
from .plan import PACED, SCHEDULES, Plan, Setting, as_gamma, make_schedule, plans
from .policies import Alternate, Cascade, DrawnMember, Fixed, Plain, Schedule

__all__ = [
    "PACED",
    "SCHEDULES",
    "Alternate",
    "Cascade",
    "DrawnMember",
    "Fixed",
    "Pace",
    "Plain",
    "Plan",
    "Schedule",
    "Setting",
    "as_gamma",
    "make_schedule",
    "plans",
]

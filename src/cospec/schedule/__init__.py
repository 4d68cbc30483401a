"""Schedules: who is fed next, who proposes, and which cells settle a position."""

from .pace import Pace
from .plan import EACH, PACED, SCHEDULES, Plan, Setting, as_gamma, make_schedule, plans
from .policies import Alternate, Assigned, Cascade, DrawnMember, Fixed, Plain, Schedule

__all__ = [
    "EACH",
    "PACED",
    "SCHEDULES",
    "Alternate",
    "Assigned",
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

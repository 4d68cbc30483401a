"""Schedules: who is fed next, who proposes, and which cells settle a position."""

from .plan import SCHEDULES, Plan, Setting, make_schedule, plans
from .policies import Alternate, Cascade, DrawnMember, Fixed, Plain, Schedule

__all__ = [
    "SCHEDULES",
    "Alternate",
    "Cascade",
    "DrawnMember",
    "Fixed",
    "Plain",
    "Plan",
    "Schedule",
    "Setting",
    "make_schedule",
    "plans",
]

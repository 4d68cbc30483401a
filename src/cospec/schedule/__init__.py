"""Schedules: who is fed next, who proposes, and which cells settle a position. One file a schedule."""

from .base import Schedule
from .plan import EACH, PACED, Plan, Setting, as_gamma
from .registry import make_schedule, plans, resolved_plan, schedule_class, schedule_names, under_schedule
from .theory import Cycle, Estimates

__all__ = [
    "EACH",
    "PACED",
    "Cycle",
    "Estimates",
    "Plan",
    "Schedule",
    "Setting",
    "as_gamma",
    "make_schedule",
    "plans",
    "resolved_plan",
    "schedule_class",
    "schedule_names",
    "under_schedule",
]

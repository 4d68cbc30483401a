"""From names to schedules: cospec's own, and those that packages register under `cospec.schedules`."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import InvalidSchedule, UnknownName
from ..names import SCHEDULES

if TYPE_CHECKING:
    from .base import Schedule
    from .plan import Plan, Setting

logger = logging.getLogger(__name__)


def schedule_names() -> list[str]:
    """The names of all schedules, sorted."""
    return sorted(SCHEDULES.names())


def schedule_class(name: str) -> "type[Schedule]":
    """The class of that name. Raises UnknownName, or InvalidSchedule for what is registered and is no schedule."""
    from .base import Schedule

    found = SCHEDULES.load(name)
    if not isinstance(found, type) or not issubclass(found, Schedule):
        raise InvalidSchedule(f"the schedule {name!r} stands for {found!r}, which is no subclass of cospec.Schedule")
    return found


def make_schedule(plan: "Plan", setting: "Setting") -> "Schedule":
    """The plan's schedule for these members and this sampling. Raises InvalidSchedule or UnknownName."""
    from .base import Schedule
    from .plan import PACED

    kind = schedule_class(plan.schedule) if isinstance(plan.schedule, str) else plan.schedule
    for what, name, known in (("first", plan.first, setting.members), ("proposer", plan.proposer, setting.lanes)):
        if name is not None and name not in (*known, *(kind.special_proposers if what == "proposer" else ())):
            raise UnknownName(what, name, known)
    if isinstance(kind, Schedule):
        for what, value in (("gamma", plan.gamma), ("first", plan.first)):
            if value is not None:
                raise InvalidSchedule(
                    f"{what} {value!r} was given beside the schedule object {plan.name!r}, which is taken as it is; "
                    "set it on the object, or give its class"
                )
        return kind
    if plan.is_paced and not kind.can_be_paced:
        raise InvalidSchedule(f'{plan.name} takes no gamma "{PACED}"; give a number, or leave it out')
    return kind.make(plan, setting)


def resolved_plan(plan: "Plan", setting: "Setting") -> "Plan":
    """The plan that runs where this one is asked for and nothing may be measured. Raises UnknownName."""
    kind = schedule_class(plan.schedule) if isinstance(plan.schedule, str) else plan.schedule
    return kind.resolved(plan, setting)


def under_schedule(plan: "Plan", schedule: "str | Schedule | type[Schedule]", setting: "Setting") -> "Plan":
    """The plan with another schedule in place of its own.

    gamma and first belong to its own and are set aside, and so is a proposer that the other does not take. How drafts
    are verified stays.
    """
    bare = replace(plan, schedule=schedule, gamma=None, proposer=None, first=None)
    kept = replace(bare, proposer=plan.proposer)
    try:
        make_schedule(kept, setting)
    except (InvalidSchedule, UnknownName):
        return bare
    return kept


def plans(setting: "Setting", verification: str) -> "list[Plan]":
    """All plans that `auto` weighs for these members and this sampling, `plain` first: the candidates of each schedule
    that can be had."""
    found: list[Plan] = []
    for name in SCHEDULES.names():
        try:
            found += _candidates(name, setting, verification)
        except Exception as error:
            if SCHEDULES.is_own(name):
                raise
            # Another package's fault is no reason to decode nothing.
            logger.warning("auto leaves out the schedule %r: %s: %s", name, type(error).__name__, error)
    return found


def _candidates(name: str, setting: "Setting", verification: str) -> "list[Plan]":
    """The plans of one schedule that `auto` weighs and that can be had."""
    found = []
    for plan in schedule_class(name).candidates(setting):
        whole = replace(plan, verification=verification)
        try:
            make_schedule(whole, setting)
        except InvalidSchedule:
            continue
        found.append(whole)
    return found

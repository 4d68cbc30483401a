"""The report's sections, in the order in which they are read."""

from ..blocks import Section
from ..view import View
from .cost import cost
from .gained import gained
from .kept import kept
from .mechanism import mechanism
from .relaxed import relaxed
from .setting import setting
from .speed import speed
from .verdict import verdict

_ALL = (verdict, speed, mechanism, kept, gained, cost, relaxed, setting)


def sections(view: View) -> tuple[Section, ...]:
    """All of them; one without figures says why."""
    return tuple(section(view) for section in _ALL)

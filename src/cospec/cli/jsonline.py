"""A line of JSON."""

from collections.abc import Mapping

from ..storage import to_json


def to_line(value: Mapping[str, object]) -> str:
    """One line of JSON, in ASCII so that every terminal and pipe takes it."""
    return to_json(value) + "\n"

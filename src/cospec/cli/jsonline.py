"""A line of JSON."""

import json
import math
from collections.abc import Mapping


def to_line(value: Mapping[str, object]) -> str:
    """One line of JSON, in ASCII so that every terminal and pipe takes it."""
    return json.dumps(_finite(value), allow_nan=False) + "\n"


def _finite(value: object) -> object:
    """The logarithm of a probability of zero, which JSON cannot write, becomes null."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

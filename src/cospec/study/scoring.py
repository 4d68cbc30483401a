"""Scores of answers against their references, from 0 to 1."""

import importlib
import math
import re
import sys
from collections.abc import Callable

from ..errors import InvalidPilot

Scorer = Callable[[str, str], float]

EXACT, NUMERIC, REGEX = "exact", "numeric", "regex"
# For a prompt whose reference only serves to measure perplexity.
NO_SCORE = "none"
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def exact(answer: str, reference: str) -> float:
    """1 if they are the same but for spaces at their ends."""
    return float(answer.strip() == reference.strip())


def numeric(answer: str, reference: str) -> float:
    """1 if the last number of the answer (after `####`, where it has that) equals the reference's last."""
    given, wanted = _last_number(answer), _last_number(reference)
    return float(given is not None and wanted is not None and math.isclose(given, wanted, rel_tol=1e-9, abs_tol=1e-9))


def regex(answer: str, reference: str) -> float:
    """1 if the pattern is found in the answer."""
    return float(re.search(reference, answer) is not None)


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text.rpartition("####")[2])
    return float(found[-1].replace(",", "")) if found else None


SCORERS: dict[str, Scorer] = {EXACT: exact, NUMERIC: numeric, REGEX: regex}


def check_scorer(name: str, where: str) -> None:
    """Raises InvalidPilot unless it is a bundled scorer, `none`, or a module:function that can be imported."""
    if name != NO_SCORE:
        scorer(name, where)


def scorer(name: str, where: str = "score") -> Scorer:
    """By name, or a callable (answer, reference) -> score of the user's own. Raises InvalidPilot."""
    if name in SCORERS:
        return SCORERS[name]
    module, _, function = name.partition(":")
    if not (module and function):
        raise InvalidPilot(f"{where} must be {', '.join(SCORERS)}, {NO_SCORE} or module:function, got {name!r}")
    if "" not in sys.path:
        # A console script does not search the working directory, where the user's module lies.
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # the user's own module may raise anything
        raise InvalidPilot(f"{where} {name!r} cannot be imported: {type(error).__name__}: {error}") from None
    return lambda answer, reference: _checked(name, found, answer, reference)


def _checked(name: str, function: Scorer, answer: str, reference: str) -> float:
    try:
        score = float(function(answer, reference))
    except Exception as error:  # and so may its function
        raise InvalidPilot(f"score {name!r} raised {type(error).__name__}: {error}") from None
    if not 0 <= score <= 1:
        raise InvalidPilot(f"score {name!r} gave {score:g}; it must be between 0 and 1")
    return score

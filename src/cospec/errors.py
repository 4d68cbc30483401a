"""Errors that a user can mend.

    CospecError
    ├── UnknownName            a name that is none of the known ones
    ├── InvalidCombination     weights or scales that make no distribution
    ├── InvalidSampling        a sampling parameter out of its range
    ├── InvalidSchedule        a schedule that cannot run as asked
    ├── InvalidPrompt          empty, too long, or not a prompt at all
    ├── InvalidEnsemble        an ensemble file or member list that cannot be read
    ├── ModelNotFound          no model at that path or id
    ├── DoesNotFit             models that need more memory than there is
    ├── UnsupportedModel       a model that cannot be rolled back or batched exactly
    ├── VocabularyMismatch     members of different tokenizers
    ├── QueueFull              more sequences than may wait for a place
    ├── EngineStopped          the engine has died, or is about to end
    ├── InvalidBenchmark       nothing to compare, or results of another one
    ├── InvalidPilot           criteria, prices or results of a pilot that cannot be used
    ├── InvalidDistillation    a distillation that cannot run as asked, or go on
    ├── MissingExtra           a part whose libraries are not installed
    └── MemberFailed           a member raised, or gave a row that is no distribution

Each message says what was given, what is allowed and what to do.
"""

import difflib
from collections.abc import Iterable

# The most characters of a value that an error shows.
MOST_SHOWN = 100


def shown(value: object) -> str:
    """The value as an error shows it: on one line, of MOST_SHOWN characters at most."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a repr may raise anything; that of a whole number of thousands of digits does
        text = f"a {type(value).__name__}"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def one_line(error: BaseException) -> str:
    """The error's type and message, in at most 700 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:700] + '…' if len(text) > 700 else text or 'no message'}"


class CospecError(Exception):
    """Anything that a user can mend. The command line prints it and exits with 2."""


class UnknownName(CospecError):
    """A name that is none of the known ones; the message lists those, the nearest first. kind: what it would name."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        self.kind = kind
        names = sorted(known)
        nearest = difflib.get_close_matches(name, names, n=1) if isinstance(name, str) else None
        hint = f"did you mean {nearest[0]!r}? " if nearest else "choose one of "
        super().__init__(f"unknown {kind} {shown(name)}; {hint}({', '.join(names)})")


class InvalidCombination(CospecError):
    """Weights or scales that make no distribution."""


class InvalidSampling(CospecError):
    """A sampling parameter out of its range."""


class InvalidSchedule(CospecError):
    """A schedule that cannot run as asked."""


class InvalidPrompt(CospecError):
    """A prompt that is empty, too long, or not a prompt at all. prompt_index: which one of those that were given."""

    def __init__(self, message: str, prompt_index: int | None = None) -> None:
        self.prompt_index = prompt_index
        super().__init__(message)


class InvalidEnsemble(CospecError):
    """An ensemble file or member list that cannot be read."""


class ModelNotFound(CospecError):
    """No model at that path or id."""


class DoesNotFit(CospecError):
    """Models that need more memory than there is."""


class UnsupportedModel(CospecError):
    """A model that cannot be rolled back or batched exactly."""


class VocabularyMismatch(CospecError):
    """Members whose tokenizers differ."""


class MemberFailed(CospecError):
    """A member raised, or gave a row that is no distribution, or what was made of its rows raised."""

    @classmethod
    def by(cls, error: Exception, what: str) -> CospecError:
        """The error that ends one sequence: a CospecError as it is, or one that names `what` raised it."""
        return error if isinstance(error, CospecError) else cls(f"{what} raised {type(error).__name__}: {error}")


class InvalidBenchmark(CospecError):
    """A benchmark with nothing to compare, or a results file of another benchmark."""


class InvalidPilot(CospecError):
    """Criteria, prices or results of a pilot that cannot be used, or a study that cannot go on."""


class InvalidDistillation(CospecError):
    """A distillation that cannot run as asked, or an output folder that it cannot go on with."""


class MissingExtra(CospecError):
    """A part of cospec whose libraries are not installed."""

"""Runners by URI scheme: `demo:math`, a folder, a hub id, `lookup`; an installed package may add schemes of its own.

A package adds a scheme by an entry point of the group `cospec.runners`, whose name is the scheme and whose value is a
`Loader`. With `gguf = "cospec_gguf:load"` the model `gguf:/models/a.gguf` is `cospec_gguf.load("/models/a.gguf", ...)`.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

from ..errors import CospecError, UnknownName, UnsupportedModel
from ..plugins import Registry
from .options import LoadOptions
from .protocol import Runner

# Makes the runner of what stands behind the scheme's colon. A drafter without a vocabulary of its own, such as
# `lookup`, has a vocab_size of 0, and takes over the members'. Raises a CospecError for what cannot be loaded.
Loader = Callable[[str, LoadOptions], Runner]

LOADERS = Registry(
    "runner scheme",
    {
        "hf": "cospec.runner.loading:load",
        "demo": "cospec.runner.loading:load_bundled",
        "lookup": "cospec.runner.lookup:load",
        "lookup+past": "cospec.runner.lookup:load_remembering",
    },
    "cospec.runners",
)
# A model without a scheme is a folder or a hub id.
DEFAULT = "hf"
# Schemes that stand alone, without a colon: they have nothing to load.
LOOKUPS = ("lookup", "lookup+past")
# A single letter would be the drive of a Windows path.
_SCHEME = re.compile(r"([a-z][a-z0-9+-]+):(.*)", re.DOTALL)


def split(model: str) -> tuple[str, str]:
    """The scheme that a model's name begins with, or DEFAULT, and the rest of the name. Raises UnknownName."""
    if model in LOOKUPS:
        return model, ""
    match = _SCHEME.fullmatch(model)
    if match is None:
        return DEFAULT, model
    scheme, rest = match.groups()
    if scheme in LOADERS.names():
        return scheme, rest
    if is_there(Path(os.path.expanduser(model))):
        return DEFAULT, model
    raise UnknownName(LOADERS.kind, scheme, LOADERS.names())


def has_scheme(name: str) -> bool:
    """Whether the name begins with a known scheme and a colon."""
    match = _SCHEME.fullmatch(name)
    return match is not None and match[1] in LOADERS.names()


def is_there(path: Path) -> bool:
    """Whether a file or folder exists; no name that is no path, for its length or a null byte, does."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def load_runner(model: str, options: LoadOptions) -> Runner:
    """The runner of a model, by its scheme's loader.

    Raises UnknownName for a scheme that is not known, PluginFailed for one whose package cannot be imported, and
    UnsupportedModel where its loader returns no runner or raises an error that is no CospecError.
    """
    scheme, rest = split(model)
    loader = cast(Loader, LOADERS.load(scheme))
    try:
        runner = loader(rest, options)
    except CospecError:
        raise
    except Exception as error:  # another package may raise anything
        raise UnsupportedModel(
            f"the loader of the runner scheme {scheme!r} raised {type(error).__name__} for {model!r}: {error}"
        ) from error
    if missing := missing_attributes(runner):
        raise UnsupportedModel(
            f"the loader of the runner scheme {scheme!r} returned {runner!r} for {model!r}, which is no Runner: it "
            f"lacks {', '.join(missing)}"
        )
    return runner


def missing_attributes(value: object) -> list[str]:
    """What a Runner has and `value` lacks; empty for a runner."""
    wanted = (*Runner.__annotations__, "open", "feed", "trim", "close")
    return [name for name in wanted if not hasattr(value, name)]

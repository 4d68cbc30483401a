"""Runners by URI scheme: `demo:math`, a folder, a hub id, `lookup`; an installed package may add schemes of its own.

A package adds a scheme by an entry point of the group `cospec.runners`, whose name is the scheme and whose value is a
`Loader`. With `gguf = "cospec_gguf:load"` the model `gguf:/models/a.gguf` is `cospec_gguf.load("/models/a.gguf", ...)`.
"""

import re
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import cast

from ..errors import CospecError, UnknownName, UnsupportedModel
from .options import LoadOptions
from .protocol import Runner

# Makes the runner of what stands behind the scheme's colon. A drafter without a vocabulary of its own, such as
# `lookup`, has a vocab_size of 0 and is given the members'. Raises a CospecError for what cannot be loaded.
Loader = Callable[[str, LoadOptions], Runner]

GROUP = "cospec.runners"
# Schemes that stand alone, without a colon: they have nothing to load.
LOOKUPS = ("lookup", "lookup+past")
# Scheme -> module and loader, imported when the first model of that scheme is loaded. A model without a scheme is a
# folder or a hub id.
BUILT_IN = {
    "": "cospec.runner.hf:load",
    "demo": "cospec.runner.hf:load_bundled",
    "lookup": "cospec.runner.lookup:load",
    "lookup+past": "cospec.runner.lookup:load_remembering",
}
# A single letter would be the drive of a Windows path.
_SCHEME = re.compile(r"([a-z][a-z0-9+-]+):(.*)", re.DOTALL)


def split(model: str) -> tuple[str, str]:
    """A model's scheme, empty for a folder or a hub id, and the rest of its name. Raises UnknownName."""
    if model in LOOKUPS:
        return model, ""
    match = _SCHEME.fullmatch(model)
    if match is None:
        return "", model
    scheme, rest = match.groups()
    if scheme in BUILT_IN or scheme in _plugins():
        return scheme, rest
    if Path(model).expanduser().exists():
        return "", model
    raise UnknownName("runner scheme", scheme, {*filter(None, BUILT_IN), *_plugins()})


def load_runner(model: str, options: LoadOptions) -> Runner:
    """The runner of a model, by its scheme's loader.

    Raises UnknownName for a scheme that is not known, UnsupportedModel where the loader of another package raises
    something else than a CospecError, or returns no runner, and whatever CospecError the loader raises.
    """
    scheme, rest = split(model)
    if scheme in BUILT_IN:
        module, _, name = BUILT_IN[scheme].partition(":")
        return cast(Loader, getattr(import_module(module), name))(rest, options)
    try:
        runner = _plugins()[scheme].load()(rest, options)
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
    return cast(Runner, runner)


def missing_attributes(value: object) -> list[str]:
    """What a Runner has and `value` lacks; empty for a runner."""
    wanted = (*Runner.__annotations__, "open", "feed", "trim", "close")
    return [name for name in wanted if not hasattr(value, name)]


def _plugins() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}

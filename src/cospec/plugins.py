"""Names that stand for parts of cospec, its own and those of other packages, found by entry points."""

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from .errors import CospecError, UnknownName


class PluginFailed(CospecError):
    """A part that another package registers, and that cannot be imported."""


class Registry:
    """What names of one kind stand for: cospec's own, by lazy paths, and those that packages register.

    kind: what a name is called in errors. own: name -> `module:attribute`. group: of the entry points, which are read
    once; a name of cospec's own cannot be replaced.
    """

    def __init__(self, kind: str, own: Mapping[str, str], group: str) -> None:
        self.kind = kind
        self._own = dict(own)
        self._group = group

    def names(self) -> list[str]:
        """All names: cospec's own first, in their order, then those that packages register, sorted."""
        return [*self._own, *sorted(self._registered)]

    def is_own(self, name: str) -> bool:
        """Whether the name is one of cospec's own."""
        return name in self._own

    def load(self, name: str) -> object:
        """What the name stands for. Raises UnknownName, with the nearest known one, or PluginFailed."""
        if name in self._own:
            module, _, attribute = self._own[name].partition(":")
            return getattr(import_module(module), attribute)
        if name not in self._registered:
            raise UnknownName(self.kind, name, self.names())
        entry = self._registered[name]
        try:
            return entry.load()
        except Exception as error:  # another package's code may raise anything as it is imported
            raise PluginFailed(
                f"the {self.kind} {name!r} of {entry.value} cannot be loaded: {type(error).__name__}: {error}"
            ) from error

    @cached_property
    def _registered(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self._group) if entry.name not in self._own}

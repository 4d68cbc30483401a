"""What loaders share: within `one_pool`, the weights that several members stand on are read once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Made = TypeVar("Made")

# Keys, which need no hash, and what was made under each.
_POOL: ContextVar[list[tuple[object, Any]] | None] = ContextVar("pool", default=None)


@contextmanager
def one_pool() -> Iterator[None]:
    """Within it, and within others inside of it, `pooled` makes what has one key once."""
    token = _POOL.set([] if (outer := _POOL.get()) is None else outer)
    try:
        yield
    finally:
        _POOL.reset(token)


def pooled(key: object, make: Callable[[], Made]) -> Made:
    """What was made under this key, or what `make` makes now. Nothing is kept outside of a pool."""
    pool = _POOL.get()
    found: list[Made] = [made for known, made in pool or () if known == key]
    if found:
        return found[0]
    made = make()
    if pool is not None:
        pool.append((key, made))
    return made

"""Whose fault it is when others' code raises: models, combinations, schedules and tokenizers may raise anything."""

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from ..errors import CospecError, MemberFailed

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Arguments = ParamSpec("Arguments")


def guarded(
    what: str | Callable[[], str], call: Callable[Arguments, Outcome], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Outcome | CospecError:
    """What `call` returns, or the error that ends a sequence where it raises.

    what: names in the error what raised; a function makes the name then, and not in each of many calls.
    """
    try:
        return call(*args, **kwargs)
    except Exception as error:
        # Without its traceback, whose frames hold tensors: it may have been raised for want of memory.
        return MemberFailed.by(error, what if isinstance(what, str) else what()).with_traceback(None)


def isolate_failures(
    attempt: Callable[[Sequence[Item]], list[Outcome]],
    items: Sequence[Item],
    what: Callable[[Item], str],
    on_retry: Callable[[Item, int, Exception], None] = lambda item, count, error: None,
) -> list[Outcome | CospecError]:
    """The outcomes of `attempt(items)`, one an item. Where that raises, each item is attempted alone, so that an error
    is the outcome of the item that causes it and of no other.

    attempt: must leave all state unchanged if it raises, since its items are then attempted again. what: names in the
    error the part of an item that raised, such as its member. on_retry: called with the first item, their number and
    the error, before they are attempted one by one.
    """
    if len(items) == 1:
        outcome = guarded(lambda: what(items[0]), attempt, items)
        return [outcome] if isinstance(outcome, CospecError) else [*outcome]
    try:
        return [*attempt(items)]
    except Exception as error:
        on_retry(items[0], len(items), error)
    return [outcome for item in items for outcome in isolate_failures(attempt, [item], what)]

"""Whose fault it is when work done for several sequences at once raises."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from ..errors import CospecError, MemberFailed

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def attributed(
    attempt: Callable[[Sequence[Item]], list[Outcome]],
    items: Sequence[Item],
    what: Callable[[Item], str],
    on_retry: Callable[[int, Exception], None] = lambda count, error: None,
) -> list[Outcome | CospecError]:
    """The outcomes of `attempt(items)`, one an item. Where that raises, each item is attempted alone, so that an error
    is the outcome of the item that causes it and of no other.

    attempt: has changed nothing when it raises. what: names an item's part that raised, such as its member, in the
    error. on_retry: told the number of items and the error before they are attempted one by one.
    """
    try:
        return [*attempt(items)]
    except Exception as error:  # models, combinations and schedules are others' code, and may raise anything
        if len(items) == 1:
            # Without its traceback, whose frames hold tensors: it may have been raised for want of memory.
            return [MemberFailed.by(error, what(items[0])).with_traceback(None)]
        on_retry(len(items), error)
    return [outcome for item in items for outcome in attributed(attempt, [item], what)]

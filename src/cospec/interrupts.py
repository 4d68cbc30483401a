"""Ctrl-C while modules are imported: some libraries turn the exception into an error of their own, so it must not
become one there. Nothing has been begun then, and the process may end where it stands."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# The exit status after Ctrl-C, as shells have it: 128 and the number of the signal.
INTERRUPTED = 130


def leave_at_once() -> None:
    """Ctrl-C ends the process from here on. Where it is ignored, as in a shell's background jobs, it stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def raise_again() -> None:
    """Ctrl-C raises KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def importing() -> Iterator[None]:
    """Around imports that take long: Ctrl-C ends the process meanwhile."""
    leave_at_once()
    try:
        yield
    finally:
        raise_again()


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted; nothing was begun, and the same command begins anew\n")
    os._exit(INTERRUPTED)

"""Signals to processes that tests start."""

import signal
from contextlib import contextmanager


def hear_interrupts():
    """To be called in the new process: what a shell starts in the background ignores SIGINT, and so would its child."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def hearing_interrupts():
    """The same within this process, which may have been started in the background itself."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)

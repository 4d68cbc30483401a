"""Signals to processes that tests start."""

import signal


def hear_interrupts():
    """To be called in the new process: what a shell starts in the background ignores SIGINT, and so would its child."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

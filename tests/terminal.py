"""A command on a terminal of its own, and somebody who types."""

import os
import pty
import re
import select
import time

from .processes import cospec

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")
SECONDS = 120


class Terminal:
    """`cospec ARGUMENTS` with a terminal as its standard input, output and errors; Ctrl-C is typed as a person does."""

    def __init__(self, *arguments, cwd):
        self._own, theirs = pty.openpty()
        env = {**os.environ, "TERM": "xterm-256color", "INPUTRC": "/dev/null"}
        # With the terminal as its own, so that Ctrl-C reaches it.
        self._process = cospec(
            *arguments, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=env, on_terminal=True
        )
        os.close(theirs)
        self.raw = ""
        self.place = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.end()
        os.close(self._own)

    @property
    def shown(self):
        """All that was printed, without colours."""
        return _CONTROL.sub("", self.raw)

    def until(self, text):
        """What was printed up to this text, since it was asked the last time."""
        end = time.monotonic() + SECONDS
        while (place := self.shown.find(text, self.place)) < 0:
            assert time.monotonic() < end, self.shown
            assert self.more(), f"ended before {text!r}: {self.shown}"
        start, self.place = self.place, place + len(text)
        return self.shown[start:place]

    def type(self, text):
        os.write(self._own, text.encode())

    def status(self):
        """The exit status, once it has ended."""
        while self.more():
            pass
        return self._process.wait(SECONDS)

    def more(self):
        """Whether there was more to read within the time."""
        ready, _, _ = select.select([self._own], [], [], SECONDS)
        try:
            found = os.read(self._own, 65536) if ready else b""
        except OSError:  # the other end was closed
            found = b""
        self.raw += found.decode(errors="replace")
        return bool(found)

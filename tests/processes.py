"""Commands as processes of their own, without the seconds that torch and transformers take to be imported: a server of
processes has them imported, and forks one for each command. How an interpreter starts, and how it ends, is not in this:
where a test is of that, it starts one itself."""

import contextlib
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

import torch

from cospec.cli import main

PRELOADED = [
    "cospec.runner.hf",
    "cospec.core.kernels",
    "cospec.runner.hf.compiled.steps",
    "cospec.server.app",
    "cospec.study.pilot",
    "transformers.models.llama.modeling_llama",
    "tests.documented.running",
]
SECONDS = 120
forking = multiprocessing.get_context("forkserver")
forking.set_forkserver_preload(PRELOADED)


class Forked:
    """A call in a process of its own, with what tests use of subprocess.Popen.

    stdin, stdout, stderr: a file descriptor, or PIPE, STDOUT or DEVNULL of subprocess. before: called first, in the
    process. on_terminal: its standard input is a terminal, and its own.
    """

    def __init__(
        self,
        call: Callable[[], object],
        *,
        argv: tuple[str, ...] = (),
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.DEVNULL,
        text: bool = False,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        before: Callable[[], object] | None = None,
        on_terminal: bool = False,
    ) -> None:
        self.stdout: IO | None = None
        self.stderr: IO | None = None
        with contextlib.ExitStack() as theirs:
            inputs = _opened(stdin, os.O_RDONLY, theirs)
            outputs, self.stdout = _written(stdout, theirs, text=text)
            errors, self.stderr = (
                (outputs, None) if stderr == subprocess.STDOUT else _written(stderr, theirs, text=text)
            )
            env = dict(os.environ if env is None else env)
            started = (call, argv, cwd or Path.cwd(), env, before, on_terminal)
            self._process = forking.Process(target=_main, args=(*started, inputs, outputs, errors), daemon=True)
            self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Kill it, if it is still there, and leave nothing of it."""
        self.kill()
        self._process.join()
        for file in filter(None, (self.stdout, self.stderr)):
            file.close()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float = SECONDS) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = SECONDS) -> tuple:
        """All that is still to be read of its output and its errors, once it has ended."""
        read = dict.fromkeys((self.stdout, self.stderr))
        threads = [threading.Thread(target=_read, args=(file, read)) for file in read if file is not None]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout)
        self.wait(timeout)
        return read[self.stdout], read[self.stderr]


def cospec(*arguments: str, **options: object) -> Forked:
    """The command line in a process of its own; options: those of `Forked`."""
    return Forked(main, argv=("cospec", *map(str, arguments)), **options)


def _read(file: IO, read: dict) -> None:
    with file:
        read[file] = file.read()


def _opened(given: int, flags: int, theirs: contextlib.ExitStack) -> Connection:
    """A copy of what is given, which is closed here once the process has its own."""
    own = os.open(os.devnull, flags) if given == subprocess.DEVNULL else os.dup(given)
    return theirs.enter_context(Connection(own))


def _written(given: int, theirs: contextlib.ExitStack, *, text: bool) -> tuple[Connection, IO | None]:
    """What the process writes to, and where that is read, if it is a pipe."""
    if given != subprocess.PIPE:
        return _opened(given, os.O_WRONLY, theirs), None
    reading, writing = os.pipe()
    return theirs.enter_context(Connection(writing)), open(reading, "r" if text else "rb")


def _main(
    call: Callable[[], object],
    argv: tuple[str, ...],
    cwd: Path,
    env: Mapping[str, str],
    before: Callable[[], object] | None,
    on_terminal: bool,
    *files: Connection,
) -> None:
    if on_terminal:
        os.setsid()
    for number, file in enumerate(files):
        os.dup2(file.fileno(), number)
    if on_terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # Those of multiprocessing are of other files, or of none.
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    # What a shell starts in the background ignores SIGINT, and so would this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    # A console script's path has not the folder that it is called in.
    sys.path[:] = filter(None, sys.path)
    sys.argv = list(argv)
    if before is not None:
        before()
    call()

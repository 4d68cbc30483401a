"""Commands run as they stand. A server of processes has cospec imported and forks one for each command, which saves the
seconds that torch and transformers take to import; what needs a shell is given to one."""

import contextlib
import multiprocessing
import os
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import torch

import cospec
from cospec.cli import main
from cospec.study import pilot
from cospec.study.effort import Effort

from ..processes import forking

SECONDS = 240


@dataclass(frozen=True, kw_only=True)
class Ran:
    """status: the exit status. output: all that was printed."""

    status: int
    output: str


@dataclass
class Reader:
    """Somebody who types commands in a folder. A server stays until the next one, or until the end."""

    folder: Path
    port: int = field(default_factory=lambda: _free_port())
    _server: multiprocessing.process.BaseProcess | None = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_server()

    def run(self, command: str, *, seconds: float | None = None) -> Ran:
        """Run it to its end; `cospec serve` until it answers. seconds: when Ctrl-C is pressed."""
        command = self.at_port(command)
        given, words = _assignments(shlex.split(command))
        if words[:2] == ["cospec", "serve"] and not {"-h", "--help"} & {*words}:
            port = str(self.port)
            given |= {"COSPEC_PORT": port} if "COSPEC_PORT" in given else {}
            is_set = "COSPEC_PORT" in given or "--port" in words
            return self._serve([*words[1:], *([] if is_set else ["--port", port])], given)
        if " | cospec " in command and not _needs_shell(command.replace(" | cospec ", " ", 1)):
            return self._piped(command)
        words, typed = _redirected(words)
        if words[0] in FORKED and not _needs_shell(command):
            process, log = self._start(words, given, typed)
            if seconds is not None:
                process.join(seconds)
                assert process.is_alive(), log.read_text(encoding="utf-8")
                os.kill(process.pid, signal.SIGINT)
            process.join(SECONDS)
            if process.is_alive():
                process.kill()
                raise AssertionError(f"{command} did not end in {SECONDS} s\n{log.read_text(encoding='utf-8')}")
            return Ran(status=process.exitcode, output=log.read_text(encoding="utf-8"))
        return self._in_shell(command)

    def at_port(self, text: str) -> str:
        """With a free port in place of the documents', where somebody else may have a server."""
        return text.replace("8000", str(self.port))

    def stop_server(self) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.join(60)
            # uvicorn drains, and then hands the signal on.
            assert self._server.exitcode in (0, -signal.SIGTERM), f"the server ended with {self._server.exitcode}"
            self._server = None

    def _serve(self, arguments: list[str], given: dict[str, str]) -> Ran:
        self.stop_server()
        self._server, log = self._start(["cospec", *arguments], given)
        until = time.monotonic() + SECONDS
        while self._server.is_alive() and time.monotonic() < until:
            with contextlib.suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health").close()
                return Ran(status=0, output=log.read_text(encoding="utf-8"))
            time.sleep(0.1)
        status, self._server = self._server.exitcode or 1, None
        return Ran(status=status, output=log.read_text(encoding="utf-8"))

    def _start(
        self, words: list[str], given: dict[str, str], typed: str = os.devnull
    ) -> tuple[multiprocessing.process.BaseProcess, Path]:
        """typed: the file that is its standard input."""
        log = self.folder / f".{time.monotonic_ns()}.log"
        process = forking.Process(target=_main, args=(words, self.folder, given, log, typed), daemon=True)
        process.start()
        return process, log

    def _piped(self, command: str) -> Ran:
        """What stands in front of the pipe is run by a shell, and what it writes is typed."""
        writing, _, reading = command.partition(" | ")
        typed = self.folder / "typed.txt"
        written = self._in_shell(writing)
        typed.write_text(written.output, encoding="utf-8")
        return written if written.status else self.run(f"{reading} < {typed}")

    def _in_shell(self, command: str) -> Ran:
        paths = (Path(sys.executable).parent, os.environ["PATH"])
        sources = (Path(cospec.__file__).parents[1], os.environ.get("PYTHONPATH", ""))
        own = {"PATH": os.pathsep.join(map(str, paths)), "PYTHONPATH": os.pathsep.join(map(str, sources))}
        own["HOME"] = str(self.folder)
        ran = subprocess.run(
            # With something behind the command, bash stays its parent.
            ["bash", "-c", f"set -e\n{command}\ntrue"],
            cwd=self.folder,
            env=os.environ | own,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        return Ran(status=ran.returncode, output=ran.stdout)


def _assignments(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The variables that are set in front of a command, and the command."""
    count = next(i for i, word in enumerate(words) if re.fullmatch(r"[A-Z_]+=.*", word) is None)
    return dict(word.split("=", 1) for word in words[:count]), words[count:]


def _redirected(words: list[str]) -> tuple[list[str], str]:
    """The words without `< FILE` at their end, and that file."""
    return (words[:-2], words[-1]) if words[-2:-1] == ["<"] else (words, os.devnull)


def _needs_shell(command: str) -> bool:
    """Whether anything outside of quotes is for a shell; completion is installed for the shell that asks."""
    bare = re.sub(r"'[^']*'", "", command)
    return re.search(r"[|>&;$]|<.*<|-completion", bare) is not None


def _main(words: list[str], folder: Path, given: dict[str, str], log: Path, typed: str) -> None:
    """A command in a process of its own, as a shell would start it."""
    os.chdir(folder)
    os.environ.update(given)
    written = os.open(log, os.O_WRONLY | os.O_CREAT)
    for number in (1, 2):
        os.dup2(written, number)
    os.dup2(os.open(typed, os.O_RDONLY), 0)
    # multiprocessing has given it an empty one.
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    # What a shell starts in the background ignores SIGINT, and so would this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Tests run side by side.
    torch.set_num_threads(1)
    # The self-tests of `verify` and of a pilot draw fewer samples than by default: what they find is tested elsewhere.
    Effort.num_samples = pilot.NUM_SAMPLES = 20
    program, *sys.argv = words
    FORKED[program]()


def _cospec() -> None:
    sys.argv.insert(0, "cospec")
    main()


def _python() -> None:
    sys.path.insert(0, "")
    runpy.run_path(sys.argv[0], run_name="__main__")


# Programs that need no shell, unless the command asks for one.
FORKED = {"cospec": _cospec, "python": _python}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as place:
        return place.getsockname()[1]

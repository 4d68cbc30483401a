"""`cospec serve` as a process: it starts, drains, is killed, and starts again."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from typer.testing import CliRunner

from cospec.cli import app
from cospec.cli.serve_run import _bound

from ..processes import cospec
from ..reproducible import text_of_plain, texts_alone_and_beside_others

OPTIONS = {"model": "demo:we", "prompt": "Question: How much is 2 + 2?\nAnswer:", "extra_body": {"ignore_eos": True}}
SECRET = "a very secret word"


class Process:
    """A started server. Its notes are read up to the one with its address."""

    def __init__(self, *arguments, ensemble="demo:we", **environment):
        named = () if ensemble is None else ("--ensemble", ensemble)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = cospec("serve", *named, *arguments, env=os.environ | environment, **pipes)
        self.notes = ""
        while (found := re.search(r"at (http://\S+):(\d+)\n", self.notes)) is None:
            line = self.process.stderr.readline()
            assert line, self.notes
            self.notes += line
        self.port = int(found[2])
        self.url = f"{found[1]}:{found[2]}"

    def __enter__(self):
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health").status_code == 200:
                    return self
            time.sleep(0.05)
        raise AssertionError("it did not start")

    def __exit__(self, *_):
        self.process.end()

    def client(self):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="given", max_retries=0)

    def ended(self):
        """Its exit status and all that it wrote."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, self.notes + err + out


def test_a_reproducible_server_has_one_text_a_seed_alone_and_beside_others_under_every_schedule():
    arguments = ("--port", "0", "--reproducible", "--proposer", "demo:drafter", "--schedule", "fixed")
    with Process(*arguments) as served, served.client() as client:
        assert texts_alone_and_beside_others(client) == {text_of_plain()}


def test_sigterm_lets_what_is_under_way_end_and_no_text_was_logged():
    with Process("--port", "0", COSPEC_API_KEY="given") as served, ThreadPoolExecutor(2) as beside:
        with served.client() as client:
            client.completions.create(**OPTIONS | {"prompt": SECRET}, max_tokens=4)
            for wrong in ({"temperature": -1}, {"model": SECRET}, {"stop": [""]}):
                with pytest.raises(openai.APIStatusError):
                    client.completions.create(**OPTIONS | {"prompt": SECRET} | wrong, max_tokens=4)
            stream = client.completions.create(**OPTIONS, max_tokens=100, stream=True)
            first = next(iter(stream))
            whole = beside.submit(client.completions.create, **OPTIONS, max_tokens=100)
            time.sleep(0.2)
            served.process.send_signal(signal.SIGTERM)
            chunks = [first, *stream]
            assert chunks[-1].choices[0].finish_reason == "length"
            assert whole.result().usage.completion_tokens == 100
        status, written = served.ended()
        assert status in (0, -signal.SIGTERM)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{served.url}/health")
    assert "serving demo:we at http://127.0.0.1:" in written
    assert "Traceback" not in written
    assert SECRET not in written


def test_a_killed_server_is_seen_to_be_gone_and_starts_again_at_its_place():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with Process("--port", port) as served, served.client() as client:
        stream = client.completions.create(**OPTIONS, max_tokens=900, stream=True)
        next(iter(stream))
        os.kill(served.process.pid, signal.SIGKILL)
        with pytest.raises((openai.APIConnectionError, httpx.RemoteProtocolError, httpx.ReadError)):
            list(stream)
    with Process("--port", port, "--drain", "0") as again, again.client() as client:
        assert client.completions.create(**OPTIONS, max_tokens=2).usage.completion_tokens == 2
        # And what takes longer than the drain is ended.
        stream = client.completions.create(**OPTIONS, max_tokens=1000, stream=True)
        next(iter(stream))
        started = time.monotonic()
        again.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(openai.APIError, httpx.TransportError):
            list(stream)
        again.ended()
        assert time.monotonic() - started < 10


def test_a_place_that_is_taken_is_told_so():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ran = CliRunner().invoke(app, ["serve", "--port", port])
    assert ran.exit_code == 2
    assert f"port {port}" in ran.output
    assert "--port" in ran.output


def test_small_pieces_are_sent_at_once():
    """asyncio turns Nagle's algorithm off only where the protocol is named; else a first token waits for 40 ms."""
    with _bound("127.0.0.1", 0) as place:
        assert place.proto == socket.IPPROTO_TCP

"""A server in a thread, as a client finds it: real sockets, the bundled models."""

import contextlib
import socket
import threading
import time

import httpx
import openai
import pytest
import uvicorn
from fastapi import FastAPI

from cospec import Ensemble
from cospec.server.app import create_app
from cospec.server.settings import ServerSettings

from .visits import visiting

MODEL = "demo:we"


class Served:
    """A running server of an ensemble, of several, or of an application. `host` is its first engine in its thread."""

    def __init__(self, served, model=MODEL, **settings):
        is_app = isinstance(served, FastAPI)
        self.app = served if is_app else create_app(served, ServerSettings(model=model, **settings))
        self.host = self.app.state.host
        self.key = settings.get("api_keys", ("none",))[0]
        listening = socket.socket(proto=socket.IPPROTO_TCP)
        listening.bind(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(self.app, log_level="error", timeout_graceful_shutdown=20)
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run, args=([listening],), daemon=True)

    def __enter__(self):
        self._thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self._thread.join(30)

    def client(self, **options):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, **options)

    def http(self):
        return httpx.Client(base_url=self.url, timeout=60)

    def becomes(self, condition, seconds=10):
        """Whether it comes to hold before long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if condition():
                return True
            time.sleep(0.005)
        return False

    def becomes_idle(self, seconds=10):
        """Whether nothing is left in the engine before long."""
        hosts = self.app.state.hosts.values()
        return self.becomes(
            lambda: not any(host.num_running or host.num_waiting or host.engine.num_live for host in hosts), seconds
        )


@pytest.fixture(scope="session")
def ensemble():
    return Ensemble.load(MODEL, proposer="demo:drafter")


@pytest.fixture(scope="session")
def served(ensemble):
    with Served(ensemble, max_sequences=16, calls_at_once=2) as running:
        yield running


@pytest.fixture
def client(served):
    with contextlib.closing(served.client()) as made:
        yield made


@pytest.fixture
def http(served):
    with served.http() as made:
        yield made


@pytest.fixture
def visit(browser, served):
    with visiting(browser, served) as opened:
        yield opened
        opened.finish()

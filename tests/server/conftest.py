"""A server in a thread, as a client finds it: real sockets, the bundled models."""

import contextlib
import socket
import threading
import time

import httpx
import openai
import pytest
import uvicorn

from cospec import Ensemble
from cospec.server.app import create_app
from cospec.server.settings import ServerSettings

from .visits import visiting

MODEL = "demo:we"


class Served:
    """A running server. `host` is the engine's thread."""

    def __init__(self, ensemble, **settings):
        self.app = create_app(ensemble, ServerSettings(model=MODEL, **settings))
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
        host = self.host
        return self.becomes(lambda: not (host.num_running or host.num_waiting or host.engine.num_live), seconds)


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

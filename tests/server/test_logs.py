"""The access log: who asked for what and how it ended, and nothing of what they wrote."""

import contextlib
import json
import logging
import socket

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cospec.server.access import JsonFormatter, access, set_up_logs
from cospec.server.settings import InvalidSettings, ServerSettings

from ..properties import examples
from .conftest import MODEL

SECRET = "verysecretword"


@pytest.fixture
def lines():
    """What is logged, as JSON lines."""
    logged = []

    class Kept(logging.Handler):
        def emit(self, record):
            logged.append(self.format(record))

    handler = Kept()
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger("cospec")
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield logged
    root.removeHandler(handler)
    root.setLevel(level)


def told(lines, served, count):
    assert served.becomes(lambda: len(lines) >= count)
    return [json.loads(line) for line in lines]


def test_a_line_has_method_path_status_seconds_tokens_and_client(lines, client, http, served):
    client.completions.create(model=MODEL, prompt="Once", max_tokens=5, n=2, extra_body={"ignore_eos": True})
    list(
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Hi"}],
            max_tokens=3,
            stream=True,
            extra_body={"ignore_eos": True},
        )
    )
    client.responses.create(model=MODEL, input="Hi", max_output_tokens=4, extra_body={"ignore_eos": True})
    http.get("/v1/models")
    first, chat, response, models = told(lines, served, 4)
    assert {key: first[key] for key in ("client", "method", "path", "status", "tokens", "level", "logger")} == {
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/v1/completions",
        "status": 200,
        "tokens": 10,
        "level": "info",
        "logger": "cospec.access",
    }
    assert 0 < first["seconds"] < 60
    assert first["message"].startswith("127.0.0.1 POST /v1/completions 200 ")
    assert first["message"].endswith(" s 10 tokens")
    assert (chat["path"], chat["tokens"], response["tokens"]) == ("/v1/chat/completions", 3, 4)
    assert (models["path"], models["method"], models["tokens"]) == ("/v1/models", "GET", None)


def test_refusals_and_clients_that_leave_are_logged(lines, client, served):
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=MODEL, prompt="Once", temperature=-1)
    stream = client.completions.create(model=MODEL, prompt="Once", max_tokens=900, stream=True)
    next(iter(stream))
    stream.close()
    refused, left = told(lines, served, 2)
    assert (refused["status"], refused["tokens"]) == (400, None)
    assert left["status"] == 200
    assert 0 < left["tokens"] < 900


PLACES = st.sampled_from(["prompt", "model", "field", "value", "path", "query", "header", "message", "method"])


@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(place=PLACES, text=st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=5))
def test_nothing_that_a_client_writes_is_logged(lines, http, served, place, text):
    secret, before = f"{SECRET}{text}", len(lines)
    body = {"prompt": "Once", "max_tokens": 1}
    if place == "path":
        http.post(f"/v1/models/{secret}" if text else f"/{secret}", json=body)
    elif place == "query":
        http.post(f"/v1/completions?{secret}=1", json=body)
    elif place == "header":
        http.post("/v1/completions", json=body, headers={"Authorization": f"Bearer {secret}", "User-Agent": secret})
    elif place == "message":
        http.post("/v1/chat/completions", json={"messages": [{"role": secret, "content": secret}], "max_tokens": 1})
    elif place == "method":
        http.request("OPTIONS", f"/{secret}")
    else:
        key, value = {"field": (secret, 1), "value": ("temperature", secret)}.get(place, (place, secret))
        http.post("/v1/completions", json=body | {key: value})
    assert served.becomes(lambda: len(lines) > before)
    assert SECRET not in "".join(lines)


def test_lines_cannot_be_forged(lines, served):
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(b"GET /%0a127.0.0.1%20POST%20/forged HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.recv(100)
    (line,) = told(lines, served, 1)
    assert (line["path"], line["status"]) == ("-", 404)


def test_no_line_is_made_where_none_is_wanted(http):
    assert not access.isEnabledFor(logging.INFO)
    assert http.get("/health").status_code == 200


@pytest.mark.parametrize(("setting", "value"), [("log_level", "loud"), ("log_level", "INFO"), ("log_format", "xml")])
def test_settings_that_are_none(setting, value):
    with pytest.raises(InvalidSettings, match=f"{setting} must be one of"):
        ServerSettings(model=MODEL, **{setting: value})


@pytest.mark.parametrize("format", ["text", "json"])
def test_logs_go_to_stderr_in_the_form_that_is_asked_for(capsys, format):
    names = ("cospec", "uvicorn")
    before = {name: (logging.getLogger(name).handlers, logging.getLogger(name).propagate) for name in names}
    try:
        set_up_logs("info", format)
        logging.getLogger("cospec.x").info("heard")
        logging.getLogger("cospec.x").debug("not heard")
        with contextlib.suppress(ZeroDivisionError):
            try:
                raise ZeroDivisionError
            except ZeroDivisionError:
                logging.getLogger("uvicorn.error").exception("failed")
                raise
    finally:
        for name, (handlers, propagate) in before.items():
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(logging.NOTSET)
    out, err = capsys.readouterr()
    assert out == ""
    assert "not heard" not in err
    assert "ZeroDivisionError" in err
    if format == "json":
        heard, failed = map(json.loads, err.splitlines())
        assert (heard["message"], heard["level"]) == ("heard", "info")
        assert "Traceback" in failed["exception"]
    else:
        assert "INFO cospec.x: heard" in err.splitlines()[0]

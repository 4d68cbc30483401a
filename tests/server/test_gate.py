"""What a request passes before anything reads it."""

import json
import socket

import openai
import pytest

from cospec.server.settings import InvalidSettings, ServerSettings

from .conftest import MODEL, Served

SITE = "https://pages.example"


@pytest.fixture(scope="module")
def guarded(ensemble):
    with Served(ensemble, api_keys=("first", "second", "schlüssel"), origins=(SITE,), max_body=1000) as running:
        yield running


def test_only_who_has_a_key_is_let_in(guarded):
    with guarded.http() as http:
        for header in ({}, {"authorization": "Bearer third"}, {"authorization": "Basic first"}, {"x-api-key": "first"}):
            for path in ("/v1/models", "/metrics", "/version"):
                refused = http.get(path, headers=header)
                assert refused.status_code == 401
                assert refused.json()["error"]["code"] == "invalid_api_key"
        for key in ("first", "second"):
            assert http.get("/v1/models", headers={"authorization": f"bearer {key}"}).status_code == 200
        # What a browser is sent to, which has no way to give a key, and which holds no data.
        for path in ("/health", "/", "/docs", "/openapi.json"):
            assert http.get(path).status_code == 200
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="second") as client:
        assert client.models.list().data[0].id == MODEL
    with (
        openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="third", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="Bearer KEY"),
    ):
        client.completions.create(model=MODEL, prompt="x")


def test_a_key_is_the_whole_of_one_whatever_its_length_and_letters(guarded):
    wrong = (b"", b"firs", b"first1", b"firstsecond", b"schlussel", b"\xff\xfe", "schlüssel".encode("latin-1"))
    with guarded.http() as http:
        for given in wrong:
            assert http.get("/v1/models", headers={"authorization": (b"Bearer " + given).strip()}).status_code == 401
        for given in ("first", "schlüssel"):
            assert http.get("/v1/models", headers={"authorization": f"Bearer {given}".encode()}).status_code == 200


def test_other_sites_pages_have_no_leave_unless_they_are_named(guarded, http):
    asks = {"origin": SITE, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    assert "access-control-allow-origin" not in http.options("/v1/completions", headers=asks).headers
    assert "access-control-allow-origin" not in http.get("/v1/models", headers={"origin": SITE}).headers
    with guarded.http() as named:
        # A browser asks without the key, and reads a refusal only where it has leave.
        assert named.options("/v1/completions", headers=asks).headers["access-control-allow-origin"] == SITE
        refused = named.get("/v1/models", headers={"origin": SITE})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == SITE
        other = named.get("/health", headers={"origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


def test_a_body_that_is_too_large_is_refused_whether_or_not_its_length_is_told(guarded):
    body = json.dumps({"prompt": "x" * 5000, "max_tokens": 1}).encode()
    headers = {"content-type": "application/json", "authorization": "Bearer first"}
    with guarded.http() as http:
        for content in (body, (body[start : start + 500] for start in range(0, len(body), 500))):
            answer = http.post("/v1/completions", content=content, headers=headers)
            assert answer.status_code == 413
            assert "1000 bytes" in answer.json()["error"]["message"]
        stranger = http.post("/v1/completions", content=b"x" * 5_000_000)
        assert stranger.status_code == 401


@pytest.mark.parametrize(("key", "status"), [("first", b"413"), ("third", b"401")])
def test_a_client_that_sends_all_before_it_reads_is_not_cut_off(guarded, key, status):
    size = 30_000_000
    lines = ("POST /v1/completions HTTP/1.1", "Host: x", "Connection: close", f"Authorization: Bearer {key}")
    head = "\r\n".join([*lines, f"Content-Length: {size}", "", ""])
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=20) as connection:
        connection.sendall(head.encode() + b" " * size)
        assert connection.recv(4096).startswith(b"HTTP/1.1 " + status)


def test_a_client_that_asks_before_it_sends_is_told_at_once(guarded):
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer first\r\n"
        b"Content-Length: 5000000\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=5) as connection:
        connection.sendall(head)
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("model", ""),
        ("max_sequences", 0),
        ("max_waiting", -1),
        ("context", 1),
        ("max_body", 0),
        ("body_seconds", 0),
    ],
)
def test_settings_out_of_range_are_told_so(setting, value):
    with pytest.raises(InvalidSettings, match=f"{setting} must be"):
        ServerSettings(**{"model": MODEL, setting: value})


def test_an_empty_key_is_refused_and_no_key_is_told():
    with pytest.raises(InvalidSettings, match="a key is empty") as caught:
        ServerSettings(model=MODEL, api_keys=("secret", " "))
    assert "secret" not in str(caught.value)

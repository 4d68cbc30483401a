"""What goes wrong is told with the right status, and to nobody else."""

import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from cospec import SamplingParams
from cospec.server.host import Submission

from .conftest import MODEL, Served
from .faulty import DIE, NAN, RAISE, moody_ensemble

JSON = {"content-type": "application/json"}
WELL = {"model": MODEL, "prompt": "Question: How much is 2 + 2?\nAnswer:", "temperature": 0}


@pytest.fixture(scope="module")
def moody():
    """A served ensemble with a member that can go wrong, at its own speed."""
    ensemble, member = moody_ensemble(schedule="plain")
    with Served(ensemble, max_sequences=4, max_waiting=2) as running:
        running.member = member
        yield running


@pytest.fixture
def slow(moody):
    """The same, 50 ms a round."""
    moody.member.seconds = 0.05
    yield moody
    moody.member.seconds = 0.0
    assert moody.becomes_idle()


@pytest.fixture
def its_client(moody):
    with contextlib.closing(moody.client()) as made:
        yield made


@pytest.mark.parametrize(("word", "says"), [(RAISE, "raised RuntimeError: no bananas"), (NAN, "no distribution")])
def test_a_member_that_fails_costs_one_request(moody, its_client, word, says):
    alone = its_client.completions.create(**WELL, max_tokens=16).choices[0].text
    moody.member.seconds = 0.01
    with ThreadPoolExecutor(1) as beside:
        neighbour = beside.submit(its_client.completions.create, **WELL, max_tokens=16)
        assert moody.becomes(lambda: moody.host.num_running)
        with pytest.raises(openai.InternalServerError, match=says) as caught:
            its_client.completions.create(model=MODEL, prompt=f"One{word} more", max_tokens=4)
        chunks = its_client.completions.create(model=MODEL, prompt=f"One{word} more", max_tokens=4, stream=True)
        with pytest.raises(openai.APIError, match=says):
            list(chunks)
        assert neighbour.result().choices[0].text == alone
    moody.member.seconds = 0.0
    assert caught.value.code == "member_failed"
    with moody.http() as http:
        assert http.get("/health").status_code == 200
    assert moody.becomes_idle()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_once_the_engine_has_died_all_are_told_so():
    ensemble, member = moody_ensemble(schedule="plain")
    member.seconds = 0.05
    with (
        Served(ensemble, max_sequences=2) as running,
        contextlib.closing(running.client()) as client,
        running.http() as http,
        ThreadPoolExecutor(3) as beside,
    ):
        assert http.get("/health").json()["status"] == "ok"
        streaming = beside.submit(lambda: list(client.completions.create(**WELL, max_tokens=500, stream=True)))
        assert running.becomes(lambda: running.host.num_running)
        dying = beside.submit(client.completions.create, model=MODEL, prompt=f"One{DIE} more")
        with pytest.raises(openai.APIError, match="the engine has died"):
            streaming.result()
        with pytest.raises(openai.InternalServerError, match="the engine has died") as caught:
            dying.result()
        assert caught.value.status_code == 503
        health = http.get("/health")
        assert health.status_code == 503
        assert "the engine has died" in health.json()["error"]
        assert http.post("/v1/completions", json=WELL).status_code == 503
        assert http.get("/v1/models").status_code == 200


def test_a_chat_says_nothing_before_its_first_token(slow):
    """Clients take the first they hear of a text for its first token."""
    started = slow.member.num_calls
    with contextlib.closing(slow.client()) as client:
        messages = [{"role": "user", "content": "How much is 2 + 2?"}]
        stream = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=3, stream=True)
        first = next(iter(stream)).choices[0].delta
        assert slow.member.num_calls > started
        assert first.role == "assistant"
        assert all(chunk.choices[0].delta.role is None for chunk in stream)


def test_a_client_that_goes_away_frees_its_place_within_a_round(slow):
    """In the round under way and no later: the member is called once more at most for each who has left."""
    with contextlib.closing(slow.client()) as client:
        stream = client.completions.create(**WELL, max_tokens=900, stream=True)
        next(iter(stream))
        assert slow.host.num_running == 1
        stream.close()
        started = slow.member.num_calls
        assert slow.becomes_idle(1)
        # One round may be under way and another begin before the server has read that the client is gone.
        assert slow.member.num_calls - started <= 2


def test_so_does_one_that_is_gone_before_the_first_word(slow):
    """Its stream is never begun, and must let go of its text all the same."""
    body = json.dumps(WELL | {"max_tokens": 900, "stream": True}).encode()
    messages = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "raw_path": b"/v1/completions"}
    scope |= {"headers": [(b"content-type", b"application/json")], "query_string": b"", "root_path": ""}
    scope |= {"asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http"}

    async def receive():
        return messages.pop(0) if len(messages) > 1 else messages[0]

    async def send(message):
        await asyncio.sleep(10)

    asyncio.run(asyncio.wait_for(slow.app(scope, receive, send), 5))
    assert slow.becomes_idle(1)


def test_so_does_one_that_waits_for_the_whole(slow):
    body = json.dumps(WELL | {"max_tokens": 900}).encode()
    with socket.create_connection(("127.0.0.1", slow.port)) as connection:
        connection.sendall(_head(len(body)) + body)
        assert slow.becomes(lambda: slow.host.num_running)
    started = slow.member.num_calls
    assert slow.becomes_idle(1)
    assert slow.member.num_calls - started <= 2


def test_one_that_leaves_while_it_waits_is_never_begun(slow):
    connections = []
    body = json.dumps(WELL | {"max_tokens": 60, "n": 2}).encode()
    for _ in range(3):
        connections.append(socket.create_connection(("127.0.0.1", slow.port)))
        connections[-1].sendall(_head(len(body)) + body)
    assert slow.becomes(lambda: slow.host.num_waiting == 2)
    connections[-1].close()
    assert slow.becomes(lambda: slow.host.num_waiting == 0, 1)
    assert slow.host.num_running == 4
    for connection in connections:
        connection.close()


def test_a_full_queue_is_told_to_come_back(slow):
    with contextlib.closing(slow.client()) as client, ThreadPoolExecutor(3) as beside:
        running = [beside.submit(client.completions.create, **WELL, max_tokens=20, n=2) for _ in range(3)]
        assert slow.becomes(lambda: slow.host.num_running == 4 and slow.host.num_waiting == 2)
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError, match="try later") as caught:
                client.completions.create(**WELL, max_tokens=4, stream=stream)
            assert int(caught.value.response.headers["retry-after"]) >= 1
            assert caught.value.code == "queue_full"
        assert all(len(each.result().choices) == 2 for each in running)
        assert client.completions.create(**WELL, max_tokens=2).choices


def test_as_many_as_have_places_never_wait_for_one(moody):
    """Those that came at once count as waiting only beyond the places."""
    with contextlib.closing(moody.client()) as client:
        assert len(client.completions.create(**WELL, max_tokens=2, n=6).choices) == 6
        with pytest.raises(openai.BadRequestError, match="from 1 to 6 can be had"):
            client.completions.create(**WELL, max_tokens=2, n=7)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe\xff",
        b'{"prompt": "\xff\xff"}',
        b'{"prompt": "\xed\xa0\x80"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "x", "model": "\\ud800"}',
        b'{"prompt": "x", "schedule": "\\ud800"}',
        b'{"prompt": "x", "guided_regex": "\\ud800"}',
        b'{"prompt": "x", "temperature": NaN}',
        b'{"prompt": "x", "temperature": 1e999}',
        b'{"prompt": "x", "weights": [NaN, 1]}',
        b'{"prompt": "x", "weights": [1e999, -1e999]}',
        b'{"prompt": "x", "logit_bias": {"0": -Infinity}}',
        b'{"prompt": "x", "logit_bias": {"a": 1}}',
        b'{"prompt": "x", "seed": 1.5}',
        b'{"prompt": [[]]}',
        b'{"prompt": [-1]}',
        b'{"prompt": [' + b"9" * 5000 + b"]}",
        b'{"prompt": ' + b"[" * 100_000,
        b'{"prompt": "x", "guided_json": ' + b'{"items":' * 500 + b"{}" + b"}" * 501,
    ],
)
def test_bodies_that_cannot_be_read_are_the_clients_fault(http, served, body):
    answer = http.post("/v1/completions", content=body, headers=JSON)
    assert answer.status_code in (400, 404), answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert http.get("/health").status_code == 200


def test_a_prompt_of_ten_megabytes_is_refused_and_the_answer_arrives(ensemble, http):
    """With its length told: the body is read, so that the client is not cut off before it reads the answer."""
    answer = http.post("/v1/completions", json={"prompt": "word " * 2_000_000})
    assert answer.status_code == 413
    with Served(ensemble, max_body=2**24) as roomy, roomy.http() as large:
        started = time.perf_counter()
        refused = large.post("/v1/completions", json={"prompt": "word " * 2_000_000})
        assert time.perf_counter() - started < 5
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"


def test_half_a_body_harms_nobody(served, client):
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(_head(1000) + b'{"prompt": "x')
        assert client.completions.create(**WELL, max_tokens=2).choices
    assert client.completions.create(**WELL, max_tokens=2).choices
    assert served.becomes_idle()


def test_a_body_that_does_not_come_is_given_up(ensemble):
    with (
        Served(ensemble, body_seconds=0.2) as hasty,
        socket.create_connection(("127.0.0.1", hasty.port), timeout=10) as connection,
    ):
        connection.sendall(_head(1000) + b'{"prompt": "x')
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_long_prompt_holds_up_no_stream(ensemble):
    """Prompts are encoded beside the event loop: another client hears of its tokens meanwhile."""
    with Served(ensemble) as running, running.http() as http, ThreadPoolExecutor(1) as beside:
        entered = threading.Event()
        leave = threading.Event()
        encode = ensemble.tokenizer.encode

        def slowly(text):
            entered.set()
            assert leave.wait(20)
            return encode(text)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(ensemble.tokenizer, "encode", slowly, raising=False)
            asked = beside.submit(http.post, "/v1/completions", json=WELL | {"max_tokens": 1})
            assert entered.wait(10)
            with running.http() as other:
                assert other.get("/health").status_code == 200
            leave.set()
            assert asked.result().status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/tokenize", {"prompt": "One", "add_special_tokens": False}, "encode_bare"),
        ("/detokenize", {"tokens": [7, 8, 9]}, "decode"),
    ],
)
def test_who_asks_for_tokens_holds_up_nobody(ensemble, path, body, name):
    with Served(ensemble) as running, running.http() as http, ThreadPoolExecutor(1) as beside:
        entered = threading.Event()
        leave = threading.Event()
        own = getattr(ensemble.tokenizer, name)

        def slowly(given):
            if given in ("One", [7, 8, 9]):
                entered.set()
                assert leave.wait(20)
            return own(given)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(ensemble.tokenizer, name, slowly, raising=False)
            asked = beside.submit(http.post, path, json=body)
            assert entered.wait(10)
            with running.http() as other:
                assert other.post("/v1/completions", json=WELL | {"max_tokens": 2}).status_code == 200
            leave.set()
            assert asked.result().status_code == 200


def test_a_prompt_over_the_context_is_told_in_openais_shape(client, ensemble):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt=[5] * 1024)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "prompt"
    assert "1024 tokens" in str(caught.value)
    with Served(ensemble, context=20) as small, contextlib.closing(small.client()) as narrow:
        with pytest.raises(openai.BadRequestError, match="context holds 20"):
            narrow.completions.create(model=MODEL, prompt=[5] * 20)
        answer = narrow.completions.create(model=MODEL, prompt=[5] * 15, extra_body={"ignore_eos": True})
        assert answer.usage.total_tokens == 20
        assert answer.choices[0].finish_reason == "length"


def test_what_is_not_installed_is_the_servers_lack(ensemble, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    monkeypatch.setattr(ensemble.tokenizer, "_compilers", {})
    with Served(ensemble) as running, running.http() as http:
        answer = http.post("/v1/completions", json={"prompt": "One", "guided_regex": "a"})
    assert answer.status_code == 501
    assert "pip install 'cospec[serve]'" in answer.json()["error"]["message"]


def test_what_fails_unforeseen_is_told_without_details(ensemble):
    with Served(ensemble) as running, running.http() as http, pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(ensemble), "request", _fail)
        answer = http.post("/v1/completions", json={"prompt": "a secret"})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text


def _fail(*_):
    raise ZeroDivisionError("a secret")


def test_a_closed_event_loop_does_not_bring_down_the_engine(ensemble):
    """Whoever asked is gone with its loop; the others go on."""
    with Served(ensemble) as running, running.http() as http:
        params = SamplingParams(max_tokens=500, ignore_eos=True)

        async def ask():
            running.host.submit(Submission([ensemble.request("Hello", params)], time.perf_counter()))

        asyncio.run(ask())
        assert running.becomes_idle()
        assert http.get("/health").status_code == 200


def _head(length):
    lines = ("POST /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()

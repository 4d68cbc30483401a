"""What the server tells of itself: models, tokens, version, the document of its endpoints."""

from importlib.metadata import EntryPoint

import openai
import pytest

import cospec
from cospec.schedule import registry
from cospec.schedule.plain import Plain

from .conftest import MODEL, Served

TEXT = "Tom has 3 boxes."


class Own(Plain):
    """A schedule that another package brings along."""

    name = "own"


class Raising(Plain):
    """One with an error in it."""

    name = "raising"

    def turn(self, sheet):
        raise ZeroDivisionError("no turn")


@pytest.fixture
def registered(monkeypatch):
    """Registers `own`, `raising`, and `broken`, which cannot be imported."""
    group = "cospec.schedules"
    values = {"own": f"{__name__}:Own", "raising": f"{__name__}:Raising", "broken": "no_such_package:Broken"}
    for name, value in values.items():
        monkeypatch.setitem(registry.SCHEDULES._registered, name, EntryPoint(name, value, group))


def test_models_one_and_all(client):
    (listed,) = client.models.list().data
    one = client.models.retrieve(MODEL)
    assert listed == one
    assert (one.id, one.object, one.max_model_len) == (MODEL, "model", 1024)
    # Benchmarks look for the model under its root.
    assert (one.root, one.parent) == (MODEL, None)
    assert one.cospec["members"] == ["math", "general"]
    with pytest.raises(openai.NotFoundError, match="demo:we"):
        client.models.retrieve("demo/other")


def test_a_schedule_of_another_package_is_listed_and_can_be_asked_for(http, registered):
    listed = http.get("/v1/models").json()["data"][0]["cospec"]["schedules"]
    assert {"own", "plain", "auto"} <= set(listed)
    body = {"prompt": TEXT, "max_tokens": 4, "seed": 1}
    own, plain = (http.post("/v1/completions", json=body | {"schedule": name}).json() for name in ("own", "plain"))
    assert own["metrics"]["schedule"] == "own"
    assert own["choices"][0]["text"] == plain["choices"][0]["text"]


def test_a_schedule_that_cannot_be_imported_is_the_servers_fault(http, registered):
    answer = http.post("/v1/completions", json={"prompt": TEXT, "schedule": "broken"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "plugin_failed"
    assert "'broken'" in answer.json()["error"]["message"]
    assert http.get("/health").status_code == 200


def test_a_schedule_that_raises_ends_its_own_request(http, served, registered):
    answer = http.post("/v1/completions", json={"prompt": TEXT, "schedule": "raising"})
    assert answer.status_code == 500
    assert "raised ZeroDivisionError: no turn" in answer.json()["error"]["message"]
    plain = {"prompt": TEXT, "max_tokens": 2, "schedule": "plain"}
    assert http.post("/v1/completions", json=plain).status_code == 200
    assert served.becomes_idle()


def test_a_schedule_that_was_given_as_a_class_is_asked_for_by_its_name(ensemble):
    with Served(ensemble.with_plan(schedule=Own)) as running, running.http() as http:
        told = http.get("/v1/models").json()["data"][0]["cospec"]
        answer = http.post("/v1/completions", json={"prompt": TEXT, "max_tokens": 2, "schedule": "own"}).json()
    assert told["schedule"] == "own"
    assert "own" in told["schedules"]
    assert answer["metrics"]["schedule"] == "own"


def test_tokens_there_and_back(http, ensemble):
    ids = ensemble.tokenizer.encode(TEXT)
    for extra in ({}, {"add_special_tokens": False}, {"model": MODEL}):
        told = http.post("/tokenize", json={"prompt": TEXT, **extra}).json()
        assert told == {"count": len(ids), "max_model_len": 1024, "tokens": ids}
    assert http.post("/detokenize", json={"tokens": ids}).json() == {"prompt": TEXT}
    chat = http.post("/tokenize", json={"messages": [{"role": "user", "content": TEXT}]}).json()["tokens"]
    assert chat == ensemble.tokenizer.encode(f"Question: {TEXT}\nAnswer:")
    info = http.get("/tokenizer_info").json()
    assert info["eos_token"] == "<|endoftext|>"
    assert info["vocab_size"] == ensemble.vocab_size


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "a", "messages": []}),
        ("/tokenize", {"prompt": 3}),
        ("/detokenize", {"tokens": [10**6]}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": [5] * 1025}),
    ],
)
def test_tokens_that_are_none(http, path, body):
    assert http.post(path, json=body).status_code == 400


def test_texts_that_no_context_holds_are_not_encoded(http, ensemble):
    most = 1024 * ensemble.tokenizer.longest
    chat = [{"role": "user", "content": "x" * (most // 2 + 1)}] * 2
    for body in ({"prompt": "x" * (most + 1)}, {"messages": chat}):
        refused = http.post("/tokenize", json=body)
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "context_length_exceeded"
    # More than fit in a context may be counted, and as many as fit be read.
    assert http.post("/tokenize", json={"prompt": "x y " * 1000}).json()["count"] > 1024
    assert http.post("/detokenize", json={"tokens": [5] * 1024}).status_code == 200


def test_the_version_the_page_and_the_documents(http):
    assert http.get("/version").json() == {"version": cospec.__version__}
    assert http.get("/").headers["content-type"].startswith("text/html")
    assert http.get("/docs").status_code == 200
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/v1/completions", "/v1/chat/completions", "/v1/models", "/health", "/metrics", "/tokenize"} <= set(paths)


def test_what_is_not_there_is_told_in_openais_shape(http):
    missing = http.get("/v1/nothing")
    assert missing.status_code == 404
    assert missing.json()["error"]["type"] == "not_found_error"
    assert http.get("/v1/completions").status_code == 405

"""What a request may name, and slips in its fields: told by name, not ignored."""

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cospec import Ensemble
from cospec.errors import InvalidPrompt, UnknownName
from cospec.names import VERIFICATIONS
from cospec.schedule import schedule_names
from cospec.server.batch import read_lines
from cospec.server.fields import HARMLESS, IN_CHATS, IN_COMPLETIONS, IN_RESPONSES, check_defaults
from cospec.server.schema import MOST_GAMMA, ChatRequest, CompletionRequest, ResponsesRequest

from ..properties import examples
from .conftest import Served

COMPLETION = {"prompt": "One", "max_tokens": 1}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
RESPONSE = {"input": "Hi", "max_output_tokens": 1}
ENDPOINTS = {
    "/v1/completions": (COMPLETION, CompletionRequest, IN_COMPLETIONS),
    "/v1/chat/completions": (CHAT, ChatRequest, IN_CHATS),
    "/v1/responses": (RESPONSE, ResponsesRequest, IN_RESPONSES),
}
LETTERS = "abcdefghijklmnopqrstuvwxyz_"


@pytest.mark.parametrize(
    "options", [{}, {"proposer": "demo:drafter"}, {"schedule": "plain", "verification": "coupled"}]
)
def test_what_is_listed_may_be_named_and_nothing_else(options):
    with Served(Ensemble.load("demo:we", **options)) as running, running.http() as http:
        (model,) = http.get("/v1/models").json()["data"]
        told = model["cospec"]

        def status(**fields):
            return http.post("/v1/completions", json={**COMPLETION, **fields}).status_code

        for schedule in schedule_names():
            assert (status(schedule=schedule) == 200) == (schedule in told["schedules"]), schedule
            for verification in VERIFICATIONS:
                is_listed = verification in told["plans"].get(schedule, [])
                expected = 200 if is_listed else 400
                assert status(schedule=schedule, verification=verification) == expected, (schedule, verification)
        assert {each: status(verification=each) for each in VERIFICATIONS} == {
            each: 200 if each in told["verifications"] else 400 for each in VERIFICATIONS
        }
        assert told["schedule"] in told["schedules"]
        assert ("cascade" in told["schedules"]) == ("proposer" in options)


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_without_its_content_type_is_told_so(http, path, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    answer = http.post(path, content=json.dumps(ENDPOINTS[path][0]).encode(), headers=headers)
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert "Content-Type: application/json" in message
    assert (kind or "no Content-Type") in message
    for well in ("application/json", "application/json; charset=utf-8", "application/vnd.api+json"):
        assert http.post(path, content=json.dumps(ENDPOINTS[path][0]), headers={"Content-Type": well}).is_success


@st.composite
def slips(draw, names):
    """A name, and the same with one letter dropped, added, changed or swapped with the next one."""
    name = draw(st.sampled_from(sorted(name for name in names if len(name) >= 4 and "." not in name)))
    at = draw(st.integers(0, len(name) - 2))
    letter = draw(st.sampled_from(LETTERS))
    kinds = [
        name[:at] + name[at + 1 :],
        name[:at] + letter + name[at:],
        name[:at] + letter + name[at + 1 :],
        name[:at] + name[at + 1] + name[at] + name[at + 2 :],
    ]
    return name, draw(st.sampled_from(kinds))


@pytest.mark.hypothesis
@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_slip_in_the_name_of_a_field_is_refused_with_the_name_that_is_meant(http, path):
    body, kind, table = ENDPOINTS[path]
    fields = set(kind.model_fields) | set(table)

    @settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
    @given(slip=slips(set(kind.model_fields) - set(body)))
    def refused(slip):
        _, written = slip
        if written in fields | HARMLESS:
            return
        answer = http.post(path, json={**body, written: 1})
        assert answer.status_code == 400, slip
        error = answer.json()["error"]
        assert error["param"] == written
        # Two known names may be equally near.
        assert "did you mean" in error["message"]

    refused()
    for name, written in (("temperature", "temprature"), ("top_p", "topP"), ("seed", "sede"), ("stream", "steam")):
        message = http.post(path, json={**body, written: 1}).json()["error"]["message"]
        assert message == f"unknown field {written!r}; did you mean {name!r}?"


@pytest.mark.parametrize(
    ("path", "field", "meant"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "contents": "Hi"}]}, "content"),
        ("/v1/completions", {"stream": True, "stream_options": {"include_usge": True}}, "include_usage"),
        ("/v1/completions", {"structured_outputs": {"regx": "a"}}, "regex"),
        ("/v1/completions", {"structured_outputs": {"jsn": {}}}, "json"),
        ("/v1/responses", {"text": {"fromat": {}}}, "format"),
        ("/v1/responses", {"text": {"format": {"type": "text", "shcema": {}}}}, "schema"),
        ("/tokenize", {"add_special_token": False}, "add_special_tokens"),
        ("/detokenize", {"tokens": [5], "modle": "x"}, "model"),
    ],
)
def test_slips_within_objects_and_at_other_endpoints(http, path, field, meant):
    body = ENDPOINTS.get(path, ({} if "tokens" in field else {"prompt": "x"},))[0]
    answer = http.post(path, json={**body, **field})
    assert answer.status_code == 400
    assert f"did you mean {meant!r}?" in answer.json()["error"]["message"]


def test_a_responses_stream_has_no_options(http):
    for options in (None, {}, {"include_obfuscation": False}):
        assert http.post("/v1/responses", json={**RESPONSE, "stream_options": options}).status_code == 200
    for options in ({"include_obfuscation": True}, {"include_usage": True}, 5):
        answer = http.post("/v1/responses", json={**RESPONSE, "stream_options": options})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "stream_options"


def test_a_default_is_a_field_and_not_one_within_it():
    check_defaults({"max_tokens": 3, "structured_outputs": {"regex": "a"}, "metadata": None})
    for name in ("structured_outputs.structural_tag", "max_token"):
        with pytest.raises(UnknownName, match="field in --defaults") as refused:
            check_defaults({name: 1})
        assert "structured_outputs.whitespace_pattern" not in str(refused.value)


@pytest.mark.parametrize("path", ENDPOINTS)
def test_unknown_fields_that_change_nothing_or_are_like_no_other_are_let_pass(http, path):
    body, _, table = ENDPOINTS[path]
    harmless = dict.fromkeys(HARMLESS - set(table) - {"metadata"}, "x")
    assert http.post(path, json={**body, **harmless, "mirostat_eta": 1, "x": 2}).status_code == 200
    many = {f"q{number}zzz": 1 for number in range(100)}
    assert "more than 64 unknown fields" in http.post(path, json={**body, **many}).json()["error"]["message"]


def test_long_names_and_lists_take_no_time(http):
    started = time.monotonic()
    for body in (
        {**COMPLETION, "temperatur" * 100_000: 1},
        {**COMPLETION, **{f"{n}{'seed' * 5000}": n for n in range(99)}},
    ):
        assert http.post("/v1/completions", json=body).status_code == 200
    assert http.post("/detokenize", json={"tokens": [5] * 300_000}).status_code == 400
    assert time.monotonic() - started < 10


def test_names_that_cannot_be_printed_are_the_clients_fault(http):
    for name in ("temperatur\\ud800", "\\ud800", "structured_outputs.", "."):
        answer = http.post(
            "/v1/completions",
            content=f'{{"prompt": "x", "max_tokens": 1, "{name}": 1}}',
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code in (200, 400)


@pytest.mark.parametrize("schedule", ["fixed", "alternate", "mixture"])
def test_gamma_may_be_asked_for_with_the_schedule(http, schedule):
    body = {"prompt": "Question: 2 + 2?", "max_tokens": 24, "seed": 1, "ignore_eos": True, "schedule": schedule}
    counts = {}
    for gamma in (1, 6):
        answer = http.post("/v1/completions", json=body | {"gamma": gamma})
        assert answer.status_code == 200, answer.text
        counts[gamma] = answer.json()["metrics"]["speculative_decoding"]
    drafted = {gamma: each["num_draft_tokens"] / each["num_drafts"] for gamma, each in counts.items()}
    assert drafted[6] > drafted[1]


def test_gammas_a_member_and_auto(http):
    body = COMPLETION | {"max_tokens": 4}
    assert http.post("/v1/completions", json=body | {"schedule": "alternate", "gamma": [1, 3]}).status_code == 200
    assert http.post("/v1/completions", json=body | {"schedule": "fixed", "gamma": "auto"}).status_code == 200
    assert http.post("/v1/completions", json=body | {"gamma": None}).status_code == 200


@pytest.mark.parametrize("gamma", [0, -1, MOST_GAMMA + 1, 2.5, "x", True, [], [0], [1] * 100, [1, 2, 3], {}, [None]])
def test_a_gamma_out_of_its_range_is_refused_by_name(http, gamma):
    answer = http.post("/v1/completions", json=COMPLETION | {"schedule": "alternate", "gamma": gamma})
    assert answer.status_code == 400
    assert "gamma" in answer.json()["error"]["message"]


def test_gamma_goes_with_batches_too():
    (line,) = read_lines(b'{"prompt": "One", "schedule": "fixed"}', "in", {"gamma": 2}, {})
    assert line.call.body["gamma"] == 2


@given(slip=slips(set(CompletionRequest.model_fields) | set(ChatRequest.model_fields)))
def test_defaults_of_a_batch_are_known_fields(slip):
    name, written = slip
    known = {*CompletionRequest.model_fields, *ChatRequest.model_fields, *IN_COMPLETIONS, *IN_CHATS, *HARMLESS}
    if written not in known:
        with pytest.raises(UnknownName, match="did you mean"):
            read_lines(b'"One"', "in", {written: 1}, {})
    if name not in ("prompt", "messages"):
        assert read_lines(b'"One"', "in", {name: None}, {})


def test_defaults_that_are_like_no_field_are_refused_too():
    with pytest.raises(UnknownName, match="--defaults"):
        read_lines(b'"One"', "in", {"mirostat": 1}, {})


@pytest.mark.parametrize("defaults", [{"max_tokens": "x"}, {"gamma": "z"}, {"temperature": []}, {"stop": 3}])
def test_a_default_of_a_value_that_no_request_takes_is_refused_once(defaults):
    with pytest.raises(InvalidPrompt, match=f"^--defaults: {next(iter(defaults))}: .*, got "):
        check_defaults(defaults)


@pytest.mark.parametrize("name", ["tool_call_id", "status", "name"])
def test_fields_of_messages_are_no_fields_of_requests(name):
    with pytest.raises(UnknownName):
        check_defaults({name: "x"})


@pytest.mark.parametrize("defaults", [{}, {"max_tokens": 3}, {"echo": True}, {"top_logprobs": 2, "logprobs": True}])
def test_defaults_of_either_kind_of_request_are_taken(defaults):
    check_defaults(defaults)


def test_a_body_that_is_no_json_is_refused_as_such(served):
    with served.http() as http:
        answer = http.post("/v1/completions", content="nojson", headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert "the body is no JSON" in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] is None

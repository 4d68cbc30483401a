"""`/v1/responses`, as OpenAI's client asks for it and reads it."""

import contextlib
import json

import openai
import pytest

from .conftest import MODEL, Served
from .faulty import RAISE, moody_ensemble

INPUT = "How much is 2 + 2?"
FEW = {"model": MODEL, "input": INPUT, "max_output_tokens": 12, "extra_body": {"seed": 1, "ignore_eos": True}}


def test_the_text_is_that_of_a_chat(client):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": INPUT}]
    chat = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=12, seed=1, temperature=0.5, extra_body={"ignore_eos": True}
    )
    response = client.responses.create(**FEW, instructions="Be brief.", temperature=0.5)
    assert response.output_text == chat.choices[0].message.content
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert (response.usage.output_tokens, response.usage.total_tokens) == (12, chat.usage.total_tokens)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (response.temperature, response.instructions, response.model) == (0.5, "Be brief.", MODEL)
    assert (response.error, response.store, response.tools) == (None, False, [])
    listed = [{"role": "developer", "content": "Be brief."}]
    listed += [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": INPUT}]}]
    assert client.responses.create(**FEW | {"input": listed}, temperature=0.5).output_text == response.output_text


def test_an_answer_that_ends_by_itself_is_completed_and_metadata_is_repeated(client):
    response = client.responses.create(
        model=MODEL, input=INPUT, temperature=0, metadata={"a": "b"}, extra_body={"stop": ["\n", ".", "?"]}
    )
    assert (response.status, response.incomplete_details) == ("completed", None)
    assert response.metadata == {"a": "b"}


def test_streamed_events_come_in_openais_order_and_add_up(client):
    whole = client.responses.create(**FEW)
    events = [*client.responses.create(**FEW, stream=True)]
    kinds = [event.type for event in events]
    first = ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    last = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
    assert kinds[:4] == first
    assert kinds[-4:] == [*last, "response.incomplete"]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-4].text == events[-1].response.output_text == whole.output_text
    assert events[-1].response.usage.output_tokens == 12
    assert events[0].response.status == "in_progress"
    assert len({event.response.id for event in (events[0], events[-1])}) == 1


def test_the_clients_own_stream_reads_it(client):
    options = FEW | {"max_output_tokens": 200, "extra_body": {"seed": 1, "stop": [" ", "\n"]}}
    with client.responses.stream(**options) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        response = stream.get_final_response()
    assert response.status == "completed"
    assert response.output_text == text == client.responses.create(**options).output_text


def test_json_of_a_schema(client):
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    schema |= {"additionalProperties": False}
    format = {"type": "json_schema", "name": "sum", "schema": schema, "strict": True}
    response = client.responses.create(
        **{**FEW, "max_output_tokens": 60, "extra_body": {"seed": 3}}, text={"format": format}
    )
    if response.status == "completed":
        assert set(json.loads(response.output_text)) == {"sum"}
    assert response.output_text.startswith("{")
    assert response.text.format.type == "json_schema"


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"trace": True, "stream": True}, "trace"),
        ({"input": [{"type": "function_call_output", "role": "user", "content": "x"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "messages"),
        ({"input": []}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "response_format"),
        ({"previous_response": "resp_1"}, "previous_response"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(http, field, named):
    answer = http.post("/v1/responses", json={"input": INPUT, **field})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].split(".")[0] == named


def test_what_openais_client_sends_for_nothing_special_is_let_pass(client):
    response = client.responses.create(
        **FEW, store=False, tools=[], tool_choice="none", truncation="disabled", parallel_tool_calls=False, user="me"
    )
    assert response.output_text


def test_errors_before_and_within_a_stream(client):
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.responses.create(**FEW | {"temperature": -1}, stream=True)
    ensemble, _ = moody_ensemble(schedule="plain")
    with Served(ensemble) as moody, contextlib.closing(moody.client()) as its_client:
        stream = its_client.responses.create(model=MODEL, input=f"One{RAISE} more", stream=True)
        kinds = []
        with pytest.raises(openai.APIError, match="no bananas"):
            kinds.extend(event.type for event in stream)
        assert kinds[-1] == "response.failed"
        with pytest.raises(openai.InternalServerError, match="no bananas"):
            its_client.responses.create(model=MODEL, input=f"One{RAISE} more")
        assert moody.becomes_idle()

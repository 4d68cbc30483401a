"""Chats of several members as a client of the server sees them: all endpoints, streams, batches and limits."""

import contextlib
import json
from functools import cache

import pytest
from fastapi.testclient import TestClient

from cospec import Chat, Ensemble, Member, Mixture, SamplingParams
from cospec.server.app import create_app
from cospec.server.batch import read_lines
from cospec.server.offline import Offline
from cospec.server.settings import ServerSettings

from .templates import member, runner, tokenizer

SYSTEM = "Answer like a pirate."
USER = {"role": "user", "content": "the cat sat"}
TURNS = [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "yes"}, USER]
BODY = {"max_tokens": 12, "seed": 1, "ignore_eos": True}


@cache
def ensemble():
    """Three members of one vocabulary: two templates, one of them with a system message and a prompt of its own, and
    none."""
    members = [
        member("smollm2"), member("llama3", seed=1, system=SYSTEM, prompt="Badly: {prompt}"), member(None, seed=2)
    ]  # fmt: skip
    return Ensemble(members, Mixture([0.4, 0.3, 0.3]), schedule="alternate", proposer=None)


@pytest.fixture(scope="module")
def client():
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(TestClient(create_app(ensemble(), ServerSettings(model="m"))))


def lanes():
    return ensemble().rendered(Chat(messages=TURNS, plain=True))


def expected(**changes):
    """What the members say, each given its rendering as token ids."""
    members = [
        Member(model=own.model, name=own.name, prompt=lane)
        for own, lane in zip(ensemble().sources, lanes(), strict=True)
    ]
    params = SamplingParams(**{"max_tokens": 12, "seed": 1, "ignore_eos": True, **changes})
    (result,) = Ensemble(members, ensemble().combination, schedule="alternate").generate([0], params)
    return result


def answered(client, url, body):
    answer = client.post(url, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(client, url, body):
    with client.stream("POST", url, json={**body, "stream": True}) as lines:
        return [json.loads(line[6:]) for line in lines.iter_lines() if line.startswith("data: {")]


def test_each_member_reads_its_own_system_message_and_template():
    decoded = [tokenizer("smollm2").decode(lane) for lane in lanes()]
    asked, said = "user\nthe cat sat", "assistant\nyes"
    im_start, im_end = "<|im_start|>", "<|im_end|>"
    turns = ["system\nBe brief.", asked, said, asked]
    assert decoded[0] == "".join(f"{im_start}{turn}{im_end}\n" for turn in turns) + f"{im_start}assistant\n"
    assert decoded[1].count(SYSTEM) == decoded[1].count("Badly: the cat sat") == 1
    assert "Be brief." not in decoded[1]
    assert decoded[1].count("<s>") == 1
    assert decoded[2] == "<s>Be brief.\nQuestion: the cat sat\nAnswer: yes\nQuestion: the cat sat\nAnswer:"


def test_a_chat_is_answered_by_all_of_them(client):
    answer = answered(client, "/v1/chat/completions", {**BODY, "messages": TURNS})
    assert answer["choices"][0]["message"]["content"] == expected().text
    assert answer["usage"]["prompt_tokens"] == len(lanes()[0])


def test_a_streamed_chat_is_the_same(client):
    chunks = events(client, "/v1/chat/completions", {**BODY, "messages": TURNS, "stream_options": {"include_usage": 1}})
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert text == expected().text
    assert chunks[-1]["usage"]["prompt_tokens"] == len(lanes()[0])


def test_a_response_is_the_same(client):
    system, *others = TURNS
    body = {"max_output_tokens": 12, "seed": 1, "ignore_eos": True, "input": others, "instructions": system["content"]}
    answer = answered(client, "/v1/responses", body)
    assert answer["output"][0]["content"][0]["text"] == expected().text
    assert answer["usage"]["input_tokens"] == len(lanes()[0])
    deltas = [each["delta"] for each in events(client, "/v1/responses", body) if each["type"].endswith("text.delta")]
    assert "".join(deltas) == expected().text


def test_a_line_of_a_batch_is_the_same():
    line = json.dumps({**BODY, "messages": TURNS}).encode()
    (read,) = read_lines(line, "in.jsonl", {}, {})
    with Offline(ensemble(), ServerSettings(model="m")) as offline:
        (answer,) = offline.answers([read.call], most=1)
    assert read.record(answer)["text"] == expected().text


def test_tokenize_counts_what_the_first_member_is_given(client):
    told = answered(client, "/tokenize", {"messages": TURNS})
    assert told["tokens"] == list(lanes()[0])
    assert told["count"] == len(lanes()[0])


def test_what_else_a_message_has_reaches_the_template():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {**USER, "name": "Tom"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "12"}]},
    ]
    served = create_app(Ensemble([member("tools")]), ServerSettings(model="m"))
    with TestClient(served) as client:
        ids = answered(client, "/tokenize", {"messages": messages})["tokens"]
    messages[1].pop("content")
    messages[2]["content"] = "12"
    assert ids == tokenizer("tools").apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_a_chat_spell_its_text(client, stream):
    body = {**BODY, "messages": TURNS, "logprobs": True, "top_logprobs": 2}
    if stream:
        choices = [choice for chunk in events(client, "/v1/chat/completions", body) for choice in chunk["choices"]]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
    else:
        choices = answered(client, "/v1/chat/completions", body)["choices"]
        text = choices[0]["message"]["content"]
    entries = [entry for choice in choices for entry in (choice["logprobs"] or {"content": []})["content"]]
    raw = bytes(byte for entry in entries for byte in entry["bytes"])
    assert raw.decode("utf-8", "replace") == text
    assert [entry["logprob"] for entry in entries] == pytest.approx(
        [entry.logprob for entry in expected(logprobs=0).logprobs], abs=1e-4
    )


def test_the_token_that_ends_a_turn_ends_the_answer_and_is_not_in_its_text(client):
    end = tokenizer("smollm2").convert_tokens_to_ids("<|im_end|>")
    body = {"messages": TURNS, "max_tokens": 9, "seed": 1, "min_tokens": 2, "logit_bias": {str(end): 100}}
    choice = answered(client, "/v1/chat/completions", body)["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"]
    assert "<|im_end|>" not in choice["message"]["content"]


def test_a_stop_string_across_the_end_of_the_rendering_is_none(client):
    """The rendering's last line is no part of the answer."""
    text = expected().text
    body = {**BODY, "messages": TURNS, "stop": ["assistant\n" + text[:1]]}
    assert answered(client, "/v1/chat/completions", body)["choices"][0]["message"]["content"] == text


def test_the_context_is_that_of_the_member_whose_rendering_leaves_the_least_room():
    chat = Chat(messages=TURNS, plain=True)
    sizes = [len(lane) for lane in ensemble().rendered(chat)]
    longest = max(range(3), key=sizes.__getitem__)
    assert longest
    context = sizes[longest] + 5
    served = create_app(ensemble(), ServerSettings(model="m", context=context))
    with TestClient(served) as client:
        answer = answered(client, "/v1/chat/completions", {"messages": TURNS, "ignore_eos": True})
        assert answer["usage"]["completion_tokens"] == 5
        assert answer["choices"][0]["finish_reason"] == "length"
        longer = [*TURNS[:-1], {"role": "user", "content": "the cat sat on the mat and the dog sat on the log"}]
        refused = client.post("/v1/chat/completions", json={"messages": longer})
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("url", "field"), [("/v1/chat/completions", "messages"), ("/v1/responses", "input"), ("/tokenize", "messages")]
)
@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([{"role": "user"}], "message 0 of the chat has no content"),
        ([USER, {"role": "", "content": "x"}], "message 1 of the chat has the role ''"),
        ([{"role": "system", "content": "x"}, USER], "the chat template of 'm0' refuses these messages: System role"),
        ([USER, USER], "the chat template of 'm0' refuses these messages: Conversation roles must alternate"),
    ],
)
def test_what_is_wrong_with_a_chat_is_told_with_its_field(url, field, turns, message):
    with TestClient(create_app(Ensemble([member("gemma")]), ServerSettings(model="m"))) as client:
        answer = client.post(url, json={field: turns})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert message in error["message"]
    assert error["param"] == field


def test_a_completion_is_a_chat_for_the_member_with_a_system_message_alone():
    members = [member("smollm2"), member("smollm2", seed=1, system=SYSTEM)]
    mixed = Ensemble(members, schedule="plain")
    params = SamplingParams(max_tokens=12, seed=1, ignore_eos=True)
    (own,) = mixed.generate("the cat", params)
    with TestClient(create_app(mixed, ServerSettings(model="m"))) as client:
        answer = answered(client, "/v1/completions", {**BODY, "prompt": "the cat"})
        assert answer["choices"][0]["text"] == own.text
        echo = {**BODY, "prompt": "the cat", "echo": True, "logprobs": 1, "max_tokens": 0}
        refused = client.post("/v1/completions", json=echo)
    assert refused.status_code == 400
    assert "members without prompts of their own" in refused.json()["error"]["message"]


def test_an_echoed_prompt_is_the_clients_and_usage_counts_the_members():
    own = Ensemble([Member(model=runner("smollm2"), prompt="Say badly: {prompt}")], schedule="plain")
    with TestClient(create_app(own, ServerSettings(model="m"))) as client:
        answer = answered(client, "/v1/completions", {**BODY, "prompt": "the cat", "echo": True})
    (result,) = own.generate("the cat", SamplingParams(max_tokens=12, seed=1, ignore_eos=True))
    assert answer["choices"][0]["text"] == "the cat" + result.text
    assert answer["usage"]["prompt_tokens"] == len(tokenizer("smollm2").encode("Say badly: the cat"))

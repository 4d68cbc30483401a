"""What chat templates are given beside the messages: by the library, a server, and a line of a file."""

import json

import pytest
from fastapi.testclient import TestClient

from cospec import Chat, Ensemble, InvalidPrompt, SamplingParams
from cospec.cli.chat_options import ChatOptions
from cospec.cli.prompts import _from_line
from cospec.prompts import as_json
from cospec.server.app import create_app
from cospec.server.settings import ServerSettings

from .templates import member, tokenizer

TURNS = [{"role": "user", "content": "the cat sat"}]
OFF = {"enable_thinking": False}


def ensemble():
    """A member that reads it, and one that does not."""
    return Ensemble([member("thinking"), member("smollm2", seed=1)], schedule="plain")


@pytest.fixture(scope="module")
def client():
    with TestClient(create_app(ensemble(), ServerSettings(model="m"))) as opened:
        yield opened


def test_each_members_template_is_given_them():
    lanes = ensemble().rendered(Chat(messages=TURNS, template_kwargs=OFF))
    for lane, name in zip(lanes, ("thinking", "smollm2"), strict=True):
        source = tokenizer(name)
        assert lane == (*source.apply_chat_template(TURNS, add_generation_prompt=True, return_dict=False, **OFF),)
    assert lanes[0] != ensemble().rendered(TURNS)[0]
    assert lanes[0] != ensemble().rendered(Chat(messages=TURNS, template_kwargs={"enable_thinking": True}))[0]


def test_a_member_with_a_system_message_and_a_prompt_of_its_own_is_given_them_too():
    own = Ensemble([member("thinking", system="Be brief.", prompt="Well: {prompt}")], schedule="plain")
    chat = Chat(messages=TURNS, template_kwargs=OFF)
    (lane,) = own.rendered(chat)
    text = tokenizer("thinking").decode(lane)
    assert text.endswith("none\n\n")
    assert "Be brief." in text
    assert "Well: the cat sat" in text
    assert own.chat_text(chat) == text


def test_a_servers_answer_is_the_librarys(client):
    body = {"messages": TURNS, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    params = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
    texts = []
    for kwargs in ({}, OFF):
        answer = client.post("/v1/chat/completions", json={**body, "chat_template_kwargs": kwargs})
        assert answer.status_code == 200, answer.text
        (own,) = ensemble().generate(Chat(messages=TURNS, template_kwargs=kwargs), params)
        texts.append(answer.json()["choices"][0]["message"]["content"])
        assert texts[-1] == own.text
    assert texts[0] != texts[1]
    tokens = client.post("/tokenize", json={"messages": TURNS, "chat_template_kwargs": OFF}).json()["tokens"]
    assert tokens == [*ensemble().rendered(Chat(messages=TURNS, template_kwargs=OFF))[0]]


WRONG = [
    ({"enable_thinkng": False}, "'enable_thinkng', which no chat template of these members reads"),
    ({"add_generation_prompt": False}, "'add_generation_prompt', which whoever renders a chat sets"),
    ({"tools": []}, "'tools', which whoever renders a chat sets"),
    ({"enable thinking": 1}, "is a mapping from names to values"),
]


@pytest.mark.parametrize(("kwargs", "message"), WRONG)
def test_what_no_template_reads_is_refused(client, kwargs, message):
    with pytest.raises(InvalidPrompt, match=message):
        ensemble().rendered(Chat(messages=TURNS, template_kwargs=kwargs))
    for url in ("/v1/chat/completions", "/tokenize"):
        answer = client.post(url, json={"messages": TURNS, "chat_template_kwargs": kwargs})
        assert answer.status_code == 400
        assert message in answer.json()["error"]["message"]
        assert answer.json()["error"]["param"] == "chat_template_kwargs"


@pytest.mark.parametrize("kwargs", [[], "x", {1: 2}, {"a": {1, 2}}, {"a": float("nan")}])
def test_what_is_no_object_of_json_is_refused(kwargs):
    with pytest.raises(InvalidPrompt, match="chat_template_kwargs"):
        Chat(messages=TURNS, template_kwargs=kwargs)


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/completions", {"prompt": "the"}),
        ("/v1/responses", {"input": "the"}),
        ("/tokenize", {"prompt": "the"}),
    ],
)
def test_without_a_chat_there_is_no_template_to_give_them_to(client, url, body):
    answer = client.post(url, json={**body, "chat_template_kwargs": OFF})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "chat_template_kwargs"


def test_members_without_a_template_read_none():
    with pytest.raises(InvalidPrompt, match="'enable_thinking', which no chat template of these members reads"):
        Ensemble([member(None)], schedule="plain").rendered(Chat(messages=TURNS, plain=True, template_kwargs=OFF))


def test_a_line_of_a_file_has_them_and_is_told_apart_by_them():
    line = json.dumps({"messages": TURNS, "chat_template_kwargs": OFF})
    chat = _from_line(line, "line 1").prompt
    assert chat.template_kwargs == OFF
    assert as_json(chat) == {"messages": TURNS, "chat_template_kwargs": OFF}
    assert as_json(Chat(messages=TURNS)) == TURNS
    with_system = ChatOptions(system="Be brief.").as_asked(chat, "line 1")
    assert (with_system.template_kwargs, len(with_system.messages)) == (OFF, 2)
    with pytest.raises(InvalidPrompt, match='line 1: "chat_template_kwargs" is for chats'):
        _from_line(json.dumps({"prompt": "the", "chat_template_kwargs": OFF}), "line 1")

"""openai-python against a started server: chats."""

import contextlib
import json
import random
import re
import shutil

import openai
import pytest
from openai.types.chat import ChatCompletion
from transformers import AutoTokenizer

from cospec import Ensemble, Member, SamplingParams, demo

from .conftest import MODEL, Served

QUESTION = "Tom has 3 boxes with 12 pencils each. How many pencils has he?"
MESSAGES = [{"role": "user", "content": QUESTION}]
PLAIN = f"Question: {QUESTION}\nAnswer:"
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'banana' %}{{ raise_exception('no bananas') }}{% endif %}"
    "<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
# openai-python cannot write half a surrogate pair; JSON's escapes can.
HALF_A_PAIR = b'{"messages": [{"role": "user", "content": "\\ud800"}]}'
JSON = {"content-type": "application/json"}


def create(client, **options):
    return client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, **options})


def test_members_without_a_template_get_a_plain_one(client, ensemble):
    answer = create(client, max_completion_tokens=16, seed=3)
    (own,) = ensemble.generate(PLAIN, SamplingParams(max_tokens=16, seed=3))
    assert answer.choices[0].message.content == own.text
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == own.finish_reason
    assert answer.usage.completion_tokens == own.completion_tokens
    assert answer.usage.prompt_tokens == own.prompt_tokens


def test_each_member_reads_the_chat_in_its_own_template_or_in_the_plain_form(tmp_path, ensemble):
    folder = shutil.copytree(demo.model_path("demo:math"), tmp_path / "math")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    turns = [{"role": "system", "content": "Be brief."}, *MESSAGES]
    prompt = f"<system>Be brief.\n<user>{QUESTION}\n<assistant>"
    served = Served(Ensemble([folder, "demo:general"], dtype="float32"))
    with served, served.http() as http, contextlib.closing(served.client()) as client:
        answer = create(client, messages=turns, max_tokens=8, temperature=0)
        asked = http.post("/tokenize", json={"messages": turns}).json()
        with pytest.raises(openai.BadRequestError, match="no bananas"):
            create(client, messages=[{"role": "banana", "content": "x"}])
        half = http.post("/v1/chat/completions", content=HALF_A_PAIR, headers=JSON)
    lanes = {"demo:math": prompt, "demo:general": f"Be brief.\n{PLAIN}"}
    own_prompts = Ensemble([Member(model=model, prompt=text) for model, text in lanes.items()], dtype="float32")
    (own,) = own_prompts.generate(QUESTION, SamplingParams(max_tokens=8, temperature=0))
    assert answer.choices[0].message.content == own.text
    assert asked["tokens"] == ensemble.tokenizer.encode(prompt)
    assert answer.usage.prompt_tokens == len(asked["tokens"])
    assert half.status_code == 400
    assert "surrogate" in half.json()["error"]["message"]


def test_text_may_come_in_parts_and_under_either_limit(client):
    parts = [{"type": "text", "text": QUESTION[:10]}, {"type": "text", "text": QUESTION[10:]}]
    whole = create(client, max_tokens=8, temperature=0)
    split = create(client, messages=[{"role": "user", "content": parts}], max_completion_tokens=8, temperature=0)
    assert split.choices[0].message.content == whole.choices[0].message.content
    assert create(client, max_tokens=9, max_completion_tokens=3, temperature=0).usage.completion_tokens == 3


def test_roles_without_a_word_of_their_own_stand_in_front(client, ensemble):
    turns = [
        {"role": "developer", "content": "Count."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "1 + 2?"},
    ]
    prompt = "Count.\nQuestion: 1 + 1?\nAnswer: 2\nQuestion: 1 + 2?\nAnswer:"
    answer = create(client, messages=turns, max_tokens=6, temperature=0)
    (own,) = ensemble.generate(prompt, SamplingParams(max_tokens=6, temperature=0))
    assert answer.choices[0].message.content == own.text


def test_logprobs_are_rs(client, ensemble):
    answer = create(client, max_tokens=6, seed=4, logprobs=True, top_logprobs=3)
    (own,) = ensemble.generate(PLAIN, SamplingParams(max_tokens=6, seed=4, logprobs=3))
    told = answer.choices[0].logprobs.content
    assert [entry.logprob for entry in told] == pytest.approx([entry.logprob for entry in own.logprobs], abs=1e-4)
    for entry, expected in zip(told, own.logprobs, strict=True):
        assert bytes(entry.bytes) == ensemble.tokenizer.token_bytes(expected.token)
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx([p for _, p in expected.top], abs=1e-4)
    assert create(client, max_tokens=2, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    assert create(client, max_tokens=2).choices[0].logprobs is None


def test_a_stream_is_the_same_chat(client):
    options = {"max_tokens": 20, "seed": 8, "n": 2, "logprobs": True, "top_logprobs": 1}
    whole = create(client, **options)
    chunks = list(create(client, **options, stream=True, stream_options={"include_usage": True}))
    texts, logprobs, roles, reasons = ["", ""], [[], []], ["", ""], ["", ""]
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] += choice.delta.content or ""
        roles[choice.index] += choice.delta.role or ""
        reasons[choice.index] += choice.finish_reason or ""
        logprobs[choice.index] += [entry.logprob for entry in choice.logprobs.content] if choice.logprobs else []
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]
    assert roles == ["assistant", "assistant"]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    for streamed, choice in zip(logprobs, whole.choices, strict=True):
        assert streamed == pytest.approx([entry.logprob for entry in choice.logprobs.content], abs=1e-4)
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.object == "chat.completion.chunk" and chunk.id == chunks[0].id for chunk in chunks)


SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer", "minimum": 0, "maximum": 99}, "unit": {"enum": ["pencils", "boxes"]}},
    "required": ["answer", "unit"],
    "additionalProperties": False,
}
NAMED = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}


def test_json_of_a_schema(client):
    choices = create(client, max_tokens=60, seed=1, n=6, response_format=NAMED).choices
    finished = [json.loads(choice.message.content) for choice in choices if choice.finish_reason == "stop"]
    assert finished
    for told in finished:
        assert told["unit"] in ("pencils", "boxes")
        assert 0 <= told["answer"] <= 99


def test_any_json_object(client):
    answer = create(
        client, max_tokens=200, seed=5, logit_bias={"92": 20}, response_format={"type": "json_object"}
    ).choices[0]
    assert answer.message.content.startswith("{")
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content), dict)


@pytest.mark.parametrize(
    "extra",
    [
        {"guided_regex": "yes|no"},
        {"guided_grammar": 'start: "yes" | "no"'},
        {"guided_choice": ["yes", "no"]},
        {"structured_outputs": {"regex": "yes|no"}},
        {"structured_outputs": {"choice": ["yes", "no"]}},
        {"structured_outputs": {"grammar": 'start: "yes" | "no"'}},
        {"structured_outputs": {"json": {"enum": ["yes", "no"]}}},
    ],
)
def test_every_way_to_ask_for_a_grammar(client, extra):
    answer = create(client, max_tokens=12, seed=2, n=2, extra_body=extra)
    assert isinstance(answer, ChatCompletion)
    for choice in answer.choices:
        assert re.fullmatch('"?(yes|no)"?', choice.message.content)
        assert choice.finish_reason == "stop"


def test_a_choice_may_have_as_many_entries_as_an_enum(client):
    draws = random.Random(0)
    choices = ["".join(draws.choices('abc dé"\n', k=draws.randrange(1, 12))) for _ in range(5000)]
    for seed in range(2):
        answer = create(client, max_tokens=40, seed=seed, extra_body={"guided_choice": choices})
        assert answer.choices[0].message.content in choices


def test_a_choice_that_begins_with_another_may_be_chosen_as_well(client):
    choices = ["a", "a b", 'a b "\n']
    answer = create(client, max_tokens=12, seed=1, temperature=2, n=48, extra_body={"guided_choice": choices})
    assert {choice.message.content for choice in answer.choices} == {*choices}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "only text"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]}, "tool_calls"),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, "context holds 1024"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tools is not supported"),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"reasoning_effort": "high"}, "reasoning_effort is not supported"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "needs a schema"),
        ({"response_format": {"type": "json_object"}, "extra_body": {"guided_regex": "a"}}, "2 grammars"),
        ({"response_format": {"type": "json_object"}, "extra_body": {"min_tokens": 5}}, "min_tokens"),
        ({"response_format": {"type": "json_object"}, "extra_body": {"ignore_eos": True}}, "ignore_eos beside"),
        ({"extra_body": {"best_of": 3}}, "best_of other than n"),
        ({"extra_body": {"echo": True}}, "echo is not supported"),
        ({"extra_body": {"guided_choice": []}}, "a choice needs"),
        ({"extra_body": {"chat_template": "x"}}, "own template"),
        ({"extra_body": {"trace": True}}, "a trace is streamed"),
    ],
)
def test_bad_chats_are_told_so(client, changes, message):
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, **changes)
    assert message in str(caught.value)


def test_what_changes_nothing_is_let_pass(client):
    free = create(client, max_tokens=4, seed=1)
    same = create(
        client, max_tokens=4, seed=1, tools=[], tool_choice="none", user="me", store=False, service_tier="auto",
        metadata={"a": "b"}, logit_bias={}, stop=None, n=None,
        extra_body={"shiny": [1], "skip_special_tokens": True, "use_beam_search": False, "top_k": -1, "documents": []},
    )  # fmt: skip
    assert same.choices[0].message.content == free.choices[0].message.content

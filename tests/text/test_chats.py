"""Chats: what each member is given of one, for templates of every kind."""

import asyncio
import dataclasses
import json
import re
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cospec import (
    Chat,
    Ensemble,
    Guided,
    InvalidEnsemble,
    InvalidPrompt,
    InvalidSchedule,
    Member,
    Mixture,
    Product,
    SamplingParams,
)
from cospec.prompts import as_json, as_prompt, as_prompts
from cospec.resume import digest
from cospec.runner.hf.tokenizer import HfTokenizer
from cospec.schedule.fixed import Fixed
from cospec.toy import FunctionRunner

from ..properties import examples
from ..toys import letters, table
from .templates import TEMPLATES, member, rows, runner, tokenizer

some = settings(max_examples=examples(50), deadline=None)
kinds = pytest.mark.parametrize("kind", ["byte-level", "byte fallback"])
templates = pytest.mark.parametrize("template", TEMPLATES)

TEXTS = st.text(st.sampled_from("the catHellowé☺\n{}|▁ 1"), max_size=20)
SYSTEM = "Answer like a pirate."
USER = {"role": "user", "content": "the cat sat"}
GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


@st.composite
def chats(draw):
    """Turns in the order that all templates take, with a system message in front or none."""
    turns = [
        {"role": "assistant" if i % 2 else "user", "content": draw(TEXTS)}
        for i in range(draw(st.sampled_from([1, 3, 5])))
    ]
    front = [{"role": "system", "content": draw(TEXTS)}] if draw(st.booleans()) else []
    return front + turns


def theirs(source, messages):
    """What transformers makes of the messages."""
    return tuple(source.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


def of_member(messages, system=None, prompt=None):
    """The messages as the member with these should read them: said once more, without cospec."""
    messages = json.loads(json.dumps(messages))
    if prompt is not None:
        last = [message for message in messages if message["role"] == "user"][-1]
        last["content"] = prompt.replace("{prompt}", last["content"])
    if system is not None:
        if messages[0]["role"] == "system":
            messages.pop(0)
        messages.insert(0, {"role": "system", "content": system})
    return messages


# A template, and the member's own system message and prompt. Gemma's, the last, takes no system message of the chat.
OWNS = [
    ("smollm2", SYSTEM, None),
    ("llama3", None, "Badly: {prompt} {prompt}"),
    ("mistral", SYSTEM, "{prompt} badly"),
    ("tools", None, None),
    ("gemma", None, None),
]


@cache
def ensemble_of(kind, count):
    members = [
        member(name, seed=seed, kind=kind, bos=bool(seed % 2), system=system, prompt=prompt)
        for seed, (name, system, prompt) in enumerate(OWNS[:count])
    ]
    return Ensemble(members, schedule="plain")


@kinds
@some
@given(data=st.data())
def test_each_member_is_given_what_transformers_makes_of_its_own_messages(kind, data):
    messages = data.draw(chats())
    count = 5 if messages[0]["role"] != "system" else 4
    for seed, lane in enumerate(ensemble_of(kind, count).rendered(messages)):
        name, system, prompt = OWNS[seed]
        source = tokenizer(name, kind, bos=bool(seed % 2))
        assert lane == theirs(source, of_member(messages, system, prompt)), name


@templates
@kinds
def test_special_tokens_are_the_templates_alone(template, kind):
    for bos in (False, True):
        source = tokenizer(template, kind, bos=bos)
        (lane,) = Ensemble([member(template, kind=kind, bos=bos)]).rendered([USER])
        assert lane.count(source.bos_token_id) == TEMPLATES[template].count("{{ bos_token }}")


def test_an_answer_is_that_of_the_members_under_their_renderings():
    owns = [{"system": SYSTEM}, {"prompt": "Badly: {prompt}"}, {}]
    members = [member(name, seed=i, **own) for i, (name, own) in enumerate(zip(TEMPLATES, owns, strict=False))]
    for schedule in ("plain", "alternate", "auto"):
        ensemble = Ensemble(members, Product([1, 1, 1]), schedule=schedule)
        lanes = zip(members, ensemble.rendered([USER]), strict=True)
        copies = [Member(model=own.model, prompt=lane) for own, lane in lanes]
        same = Ensemble(copies, Product([1, 1, 1]), schedule="plain")
        (answer,), (expected,) = ensemble.generate([USER], GREEDY), same.generate([0], GREEDY)
        assert answer.token_ids == expected.token_ids
        assert answer.prompt_tokens == len(ensemble.rendered([USER])[0])


def test_the_text_goes_on_behind_the_first_members_rendering():
    """A character that the rendering leaves half is made whole by the answer."""
    source = tokenizer("smollm2")
    # How a byte-level vocabulary writes the bytes of é.
    half, rest = (source.convert_tokens_to_ids(letter) for letter in "Ã©")

    class Half(HfTokenizer):
        has_chat_template = True

        def chat(self, messages):
            return [*self.encode_bare(messages[-1]["content"]), half]

    model = FunctionRunner(len(source), rows(len(source), 0), tokenizer=Half(source))
    ensemble = Ensemble([Member(model=model)])
    params = dataclasses.replace(GREEDY, logit_bias={rest: 100.0}, max_tokens=1)
    (answer,) = ensemble.generate([{"role": "user", "content": "caf"}], params)
    assert answer.text == "é"


@pytest.mark.parametrize("schedule", ["plain", "auto"])
def test_one_list_of_messages_is_one_chat_and_many_are_a_list(schedule):
    ensemble = Ensemble([member("smollm2")], schedule=schedule)
    chat = [{"role": "system", "content": "x"}, USER]
    one = ensemble.generate(chat, GREEDY)
    many = ensemble.generate([chat, "the cat", [5, 6], Chat(messages=(USER,))], GREEDY)
    assert len(one) == 1
    assert [result.prompt_index for result in many] == [0, 1, 2, 3]
    assert many[0].token_ids == one[0].token_ids
    assert many[1].token_ids == ensemble.generate("the cat", GREEDY)[0].token_ids
    assert many[2].prompt_tokens == 2
    assert many[3].token_ids == ensemble.generate([USER], GREEDY)[0].token_ids


async def _answers(ensemble, prompts):
    return [result.token_ids for result in await ensemble.agenerate(prompts, GREEDY)]


def test_event_loops_take_chats():
    ensemble = Ensemble([member("llama3"), member("smollm2", seed=1, system=SYSTEM)])
    expected = [result.token_ids for result in ensemble.generate([[USER], "the cat"], GREEDY)]
    assert asyncio.run(_answers(ensemble, [[USER], "the cat"])) == expected


def test_parts_are_joined_and_other_keys_are_the_templates():
    said = {
        "role": "user",
        "name": "Tom",
        "content": [{"type": "text", "text": "the "}, {"type": "text", "text": "cat"}],
    }
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        said,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "12"},
    ]
    joined = [{**said, "content": "the cat"}, *messages[1:]]
    ensemble = Ensemble([member("tools"), member("smollm2", seed=1, prompt=[7])])
    lanes = ensemble.rendered(messages)
    assert lanes == [theirs(tokenizer("tools"), joined), (7,)]
    text = ensemble.tokenizer.decode(lanes[0])
    assert "user Tom\nthe cat" in text
    assert '{"name": "f", "arguments": "{}"}' in text
    assert "12 of 1" in text


def test_a_template_that_reads_parts_alone_is_given_parts():
    messages = [{"role": "system", "content": "x"}, USER]
    parts = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
    (lane,) = Ensemble([member("parts")]).rendered(messages)
    assert lane == theirs(tokenizer("parts"), parts)
    assert "the cat sat" in tokenizer("parts").decode(lane)


def test_a_text_is_a_chat_for_the_members_that_have_a_system_message_alone():
    members = [member("smollm2", system=SYSTEM, prompt="{prompt}!"), member("smollm2", seed=1)]
    said = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "the cat!"}]
    assert Ensemble(members).rendered("the cat") == [
        theirs(tokenizer("smollm2"), said), tuple(tokenizer("smollm2").encode("the cat"))
    ]  # fmt: skip
    with pytest.raises(InvalidPrompt, match="'m0' has a system message, and token ids cannot be put behind it"):
        Ensemble(members).generate([1, 2])


def test_a_systems_place_is_in_front_and_an_empty_one_is_one():
    turns = [{"role": "developer", "content": "a"}, {"role": "system", "content": "b"}, USER]
    for system in (SYSTEM, ""):
        (lane,) = Ensemble([member("smollm2", system=system)]).rendered(turns)
        assert lane == theirs(tokenizer("smollm2"), [{"role": "system", "content": system}, USER])


# Who drafts for whom.


def owners(members, drafters, **plan):
    """Which member's rendering each drafter is given; None for one of its own."""
    ensemble = Ensemble(members, proposer=drafters, **plan)
    lanes = ensemble.rendered([USER])
    of_members, of_drafters = lanes[: len(members)], lanes[len(members) :]
    assert len(set(of_members)) == len(members)
    return [of_members.index(lane) if lane in of_members else None for lane in of_drafters]


def test_a_drafter_is_given_the_rendering_of_the_member_that_it_drafts_for():
    members = [member("smollm2", system=f"{i}") if i else member("llama3") for i in range(3)]
    members = [dataclasses.replace(each, name=f"m{i}") for i, each in enumerate(members)]
    quick, other, third = (member("mistral", seed=seed) for seed in (7, 8, 9))
    assert owners(members, [quick], schedule="fixed") == [0]
    assert owners(members, ["lookup"], schedule="plain") == [0]
    assert owners(members, [quick, other], schedule="fixed") == [0, 0]
    assert owners(members, [quick, other], schedule="mixture", gamma=2) == [0, 1]
    assert owners(members, [quick, other, third, "lookup"], schedule="mixture", gamma=2) == [0, 1, 2, 0]
    assert owners(members, [quick], schedule="mixture", gamma=2) == [0]
    assert owners(members, [quick, "lookup"], schedule="cascade", first="m2") == [2, 2]
    assert owners(members, [quick, other]) == [0, 1]
    assert owners(members, [quick, other], combine="product") == [0, 0]
    own = member("mistral", seed=7, system="none of these")
    assert owners(members, [own, other]) == [None, 1]
    assert owners(members, [dataclasses.replace(quick, prompt="my {prompt}"), other]) == [None, 1]


def test_a_schedule_of_ones_own_names_an_owner_for_each_drafter():
    class Mine(Fixed):
        name = "mine"
        answer = (1,)

        @classmethod
        def owners(cls, plan, setting):
            return cls.answer

    members = [member("smollm2"), member("llama3", seed=1)]
    quick = member("mistral", seed=7)
    assert owners(members, [quick], schedule=Mine) == [1]
    for Mine.answer in ((), (2,), (-1,), (0, 0)):
        with pytest.raises(InvalidSchedule, match="the schedule 'mine' names the owners"):
            owners(members, [quick], schedule=Mine)


def test_a_drafter_that_is_its_member_is_always_right():
    """With the rendering of another one it would be wrong now and then."""
    members = [member("smollm2", system=SYSTEM), member("llama3", seed=1)]
    drafters = [Member(model=runner("smollm2", seed=i), name=f"d{i}") for i in range(2)]
    params = SamplingParams(max_tokens=40, seed=1, ignore_eos=True)
    ensemble = Ensemble(members, Mixture([0.5, 0.5]), schedule="mixture", gamma=3, proposer=drafters)
    (result,) = ensemble.generate([USER], params)
    assert len(result.proposers) == 2
    assert all(counts.accepted == counts.proposed > 0 for counts in result.proposers.values())


# What is refused.


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([{"role": "user"}], "message 0 of the chat has no content"),
        ([USER, {"role": "assistant", "content": None}], "message 1 of the chat has no content"),
        ([USER, {"content": "x"}], 'message 1 of the chat has no role; a message is such as {"role": "user"'),
        ([{"role": 3, "content": "x"}], "message 0 of the chat has the role 3"),
        ([{"role": "", "content": "x"}], "message 0 of the chat has the role ''"),
        ([{"role": "user", "content": 3}], "message 0 of the chat has the content 3; give a text, or a list of parts"),
        ([{"role": "user", "content": {"text": "x"}}], "message 0 of the chat has the content {'text': 'x'}"),
        ([{"role": "user", "content": ["x"]}], "message 0 of the chat has the part 'x'; only texts can be read"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "the part {'type': 'image_url'}; only texts"),
        ([{"role": "user", "content": [{"type": "text"}]}], "the part {'type': 'text'}; only texts"),
        ([USER, "the cat"], "message 1 of the chat is 'the cat'; a message is such as"),
        (["the cat", USER], "message 0 of the chat is 'the cat'"),
        ([USER, [USER]], "message 1 of the chat is [{'role'"),
        ([[USER], [USER, {"role": "user"}]], "prompt 1: message 1 of the chat has no content"),
        ([[USER], USER], "message 0 of the chat is [{'role'"),
        ([{"role": "user", "content": "\ud800"}], "surrogate"),
        ([{"\ud800": 1}], "has no role"),
        ([{1: "user"}], "message 0 of the chat is {1: 'user'}"),
        (USER, "a prompt is a text or a list of token ids, or of messages"),
        ({"messages": [USER]}, "a prompt is a text or a list of token ids, or of messages"),
        ([[]], "the prompt is empty"),
    ],
)
def test_half_a_message_is_refused_by_its_index(prompts, message):
    with pytest.raises(InvalidPrompt, match=re.escape(message)):
        Ensemble([member("smollm2")]).generate(prompts, GREEDY)


def test_the_index_of_a_chat_among_prompts_is_in_the_error():
    ensemble = Ensemble([member("gemma")])
    for prompts in (["x", [{"role": "user"}]], ["x", [USER, USER]], ["x", [{"role": "system", "content": "x"}, USER]]):
        with pytest.raises(InvalidPrompt) as caught:
            ensemble.generate(prompts)
        assert caught.value.prompt_index == 1


@pytest.mark.parametrize("messages", [(), "user", USER, None, 3])
def test_a_chat_has_messages(messages):
    with pytest.raises(InvalidPrompt, match=r"give at least one message|a chat is a list of messages, got"):
        Chat(messages=messages)


def test_a_member_without_a_template_is_named_unless_the_chat_may_be_plain():
    ensemble = Ensemble([member("smollm2"), member(None, seed=1)])
    with pytest.raises(InvalidPrompt, match="'m1' has no chat template, and a chat was given"):
        ensemble.generate([USER])
    turns = ({"role": "system", "content": "Count."}, USER, {"role": "assistant", "content": "yes"}, USER)
    lanes = ensemble.rendered(Chat(messages=turns, plain=True))
    plain = "Count.\nQuestion: the cat sat\nAnswer: yes\nQuestion: the cat sat\nAnswer:"
    assert lanes == [theirs(tokenizer("smollm2"), list(turns)), tuple(tokenizer(None).encode(plain))]
    assert lanes[1][0] == tokenizer(None).bos_token_id
    own = Ensemble([member(None, system="Be rude.", prompt="Badly: {prompt}"), member(None, seed=1, prompt="none")])
    lanes = own.rendered(Chat(messages=(USER,), plain=True))
    assert [tokenizer(None).decode(lane) for lane in lanes] == [
        "<s>Badly: Be rude.\nQuestion: the cat sat\nAnswer:", "<s>none"
    ]  # fmt: skip
    call = {"role": "assistant", "tool_calls": [{"id": "1"}]}
    with pytest.raises(InvalidPrompt, match="'m1' has no chat template, and message 1 has tool_calls"):
        Ensemble([member(None, seed=1)]).rendered(Chat(messages=(USER, call), plain=True))


def test_a_chat_for_members_without_a_tokenizer_is_refused():
    with pytest.raises(InvalidPrompt, match=r"these members have no tokenizer; give the chat .* as token ids"):
        Ensemble([table(1)]).generate([USER])
    with pytest.raises(InvalidPrompt, match="'member' has no chat template"):
        Ensemble([letters([1])]).generate([USER])
    # A tokenizer without templates is enough for a plain chat, if it has all its letters.
    with pytest.raises(InvalidPrompt, match="the tokenizer raised ValueError for 'Question: the cat sat"):
        Ensemble([letters([1])]).rendered(Chat(messages=(USER,), plain=True))


@pytest.mark.parametrize(
    ("template", "turns", "message"),
    [
        ("gemma", [{"role": "system", "content": "x"}, USER], "System role not supported"),
        ("gemma", [USER, USER], "Conversation roles must alternate"),
        ("mistral", [{"role": "banana", "content": "x"}], "Only user and assistant roles are supported"),
    ],
)
def test_what_a_template_refuses_is_said_with_the_members_name(template, turns, message):
    ensemble = Ensemble([member("smollm2"), member(template, seed=1)])
    with pytest.raises(InvalidPrompt, match=f"the chat template of 'm1' refuses these messages: {message}"):
        ensemble.generate(turns)


def test_a_template_that_raises_is_named():
    messages = [USER, {"role": "assistant", "tool_calls": [{"id": "1"}]}]
    with pytest.raises(InvalidPrompt, match=r"the chat template of 'm0' refuses .* no attribute 'content'"):
        Ensemble([member("smollm2")]).rendered(messages)
    with pytest.raises(InvalidPrompt, match=r"the chat template of 'm0' raised TypeError: "):
        Ensemble([member("adds")]).rendered([USER])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("gemma", "the chat template of 'm0' refuses these messages: System role not supported; 'm0' has a system"),
        ("no system", "'m0' has a system message of its own, which its chat template leaves out; give it a prompt"),
    ],
)
def test_a_system_message_that_a_template_does_not_take_is_refused_as_the_ensemble_is_made(template, message):
    with pytest.raises(InvalidEnsemble, match=message):
        Ensemble([member(template, system=SYSTEM)])
    with pytest.raises(InvalidEnsemble, match=message):
        Ensemble([member("smollm2", seed=1)], proposer=member(template, system=SYSTEM))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"system": 3}, "a member's system message is 3; give a text, or none"),
        ({"system": ["x"]}, r"a member's system message is \['x'\]"),
        ({"system": "\ud800"}, "surrogate"),
        ({"system": "Answer {prompt}"}, "has '{prompt}', which stands for nothing there"),
        ({"system": "x", "prompt": [1]}, "token ids as its whole prompt, and a system message beside them"),
    ],
)
def test_a_bad_system_message_is_refused(own, message):
    with pytest.raises(InvalidEnsemble, match=message):
        member("smollm2", **own)


def test_a_members_prompt_needs_a_users_message():
    ensemble = Ensemble([member("smollm2", prompt="Badly: {prompt}")])
    with pytest.raises(
        InvalidPrompt, match="'m0' has a prompt of its own, which stands for the last message of a user"
    ):
        ensemble.generate([{"role": "assistant", "content": "x"}])


# What is kept of a chat.


def test_a_chat_is_told_apart_by_its_messages():
    chats = [[USER], [{**USER, "content": "a"}], [{**USER, "name": "Tom"}], [USER, USER]]
    values = [as_json(as_prompt(chat)) for chat in chats]
    assert values == chats
    assert len({digest(value) for value in [*values, "the cat sat", [1, 2]]}) == 6
    (joined,) = as_prompts([{"role": "user", "content": [{"type": "text", "text": "the cat sat"}]}])
    assert digest(as_json(joined)) == digest(values[0])


def test_penalties_count_what_the_first_member_is_given():
    token = tokenizer("smollm2").encode("assistant", add_special_tokens=False)[0]
    ensemble = Ensemble([member("smollm2")], schedule="plain")
    assert token in ensemble.rendered([USER])[0]
    params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, logit_bias={token: 100.0})
    assert ensemble.generate([USER], params)[0].token_ids == [token]


def test_guidance_between_two_system_messages_takes_the_chat_of_both():
    source = tokenizer("smollm2")
    model = runner("smollm2")
    members = [Member(model=model, name="kind", system="kind"), Member(model=model, name="rude", system="rude")]
    ensemble = Ensemble(members, Guided(2.0), schedule="plain")
    (answer,) = ensemble.generate([USER], dataclasses.replace(GREEDY, max_tokens=1, logprobs=0))
    kind, rude = (
        torch.log_softmax(model._fn(theirs(source, [{"role": "system", "content": name}, USER])), -1)
        for name in ("kind", "rude")
    )
    r = torch.log_softmax(rude + 2.0 * (kind - rude), -1)
    assert answer.token_ids == [int(r.argmax())]
    assert answer.logprobs[0].logprob == pytest.approx(float(r.max()), abs=1e-5)

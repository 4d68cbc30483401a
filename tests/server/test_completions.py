"""openai-python against a started server: completions."""

import json
import re

import openai
import pytest

from cospec import Ensemble, SamplingParams
from cospec.schedule import Plan

from .conftest import MODEL, Served

PROMPT = "Question: Tom has 3 boxes with 12 pencils each. How many pencils has he?\nAnswer:"
OTHER = "Question: How much is 7 times 8?\nAnswer:"


def ids(ensemble, text):
    return ensemble.tokenizer.encode(text)


def test_a_seed_gives_the_librarys_own_text(client, ensemble):
    answer = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=24, seed=5, temperature=1)
    (own,) = ensemble.generate(PROMPT, SamplingParams(max_tokens=24, seed=5))
    assert answer.choices[0].text == own.text
    assert answer.choices[0].finish_reason == own.finish_reason
    assert answer.usage.completion_tokens == own.completion_tokens
    assert answer.usage.prompt_tokens == len(ids(ensemble, PROMPT))


def test_every_kind_of_prompt(client, ensemble):
    one, two = ids(ensemble, PROMPT), ids(ensemble, OTHER)
    texts = {}
    for name, prompt in {"text": PROMPT, "ids": one, "texts": [PROMPT, OTHER], "lists": [one, two]}.items():
        answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=8, temperature=0)
        texts[name] = [choice.text for choice in answer.choices]
        assert [choice.index for choice in answer.choices] == list(range(len(texts[name])))
    assert texts["text"] == texts["ids"]
    assert texts["texts"] == texts["lists"]
    assert len(texts["lists"]) == 2


def test_a_stream_is_the_same_text_with_usage_at_the_end(client):
    options = {"model": MODEL, "prompt": PROMPT, "max_tokens": 30, "seed": 9}
    whole = client.completions.create(**options)
    chunks = list(client.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    counted = client.completions.create(**options, stream=True, stream_options={"continuous_usage_stats": True})
    totals = [chunk.usage.completion_tokens for chunk in counted if chunk.usage]
    assert totals == sorted(totals)
    assert totals[-1] == whole.usage.completion_tokens


def test_a_stream_is_cut_only_where_its_events_end(http):
    """Clients differ in what they take for the end of a line."""
    odd = "one\u2028two\x85three\x0bfour\x1cfive\u2029 six"
    body = {"prompt": odd, "echo": True, "stream": True, "max_tokens": 3}
    lines = [line for line in http.post("/v1/completions", json=body).text.splitlines() if line]
    assert lines.pop() == "data: [DONE]"
    texts = [json.loads(line.removeprefix("data: "))["choices"][0]["text"] for line in lines]
    assert texts[0].startswith(odd)


@pytest.mark.parametrize(
    "asked",
    [
        {"presence_penalty": 2.0, "frequency_penalty": 1.0},
        {"repetition_penalty": 1.8, "temperature": 0.7},
        {"top_k": 2, "min_p": 0.2},
        {"top_p": 0.3, "logit_bias": {"9": 5.0, "30": 4.0}},
        {"min_tokens": 32, "ignore_eos": True, "stop_token_ids": [9]},
    ],
)
def test_every_way_to_sample_gives_the_librarys_own_text(http, ensemble, asked):
    answer = http.post("/v1/completions", json={"prompt": OTHER, "max_tokens": 40, "seed": 6, **asked}).json()
    (own,) = ensemble.generate(OTHER, SamplingParams(max_tokens=40, seed=6, **asked))
    (free,) = ensemble.generate(OTHER, SamplingParams(max_tokens=40, seed=6))
    assert answer["choices"][0]["text"] == own.text != free.text
    assert answer["choices"][0]["finish_reason"] == own.finish_reason
    assert answer["usage"]["completion_tokens"] == own.completion_tokens


def test_n_samples_differ_and_streams_keep_them_apart(client):
    options = {"model": MODEL, "prompt": PROMPT, "max_tokens": 12, "n": 3, "seed": 1}
    whole = [choice.text for choice in client.completions.create(**options).choices]
    assert len(set(whole)) == 3
    streamed = ["", "", ""]
    for chunk in client.completions.create(**options, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == whole


def test_stop_strings_and_penalties_and_biases(client, ensemble):
    free = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=40, temperature=0).choices[0]
    stop = free.text[5:8]
    stopped = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=40, temperature=0, stop=[stop]).choices[
        0
    ]
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.finish_reason == "stop"
    first = ids(ensemble, free.text)[0]
    biased = client.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=4, temperature=0, logit_bias={str(first): -100}
    )
    assert biased.choices[0].text != free.text[: len(biased.choices[0].text)]
    assert client.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=4, presence_penalty=1, frequency_penalty=0.5, top_p=0.9,
        extra_body={"top_k": 5, "min_p": 0.1, "ignore_eos": True, "min_tokens": 2, "repetition_penalty": 1.1},
    ).choices[0].text  # fmt: skip


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_echo_scores_the_prompt(client, ensemble, max_tokens):
    prompt = ids(ensemble, PROMPT)
    answer = client.completions.create(
        model=MODEL, prompt=prompt, max_tokens=max_tokens, echo=True, logprobs=2, temperature=0
    )
    (choice,) = answer.choices
    told = choice.logprobs
    assert choice.text.startswith(PROMPT)
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(prompt) + max_tokens
    assert told.token_logprobs[0] is None
    assert all(top is not None for top in told.top_logprobs)
    assert "".join(told.tokens[: len(prompt)]) == PROMPT
    assert told.text_offset[:2] == [0, len(told.tokens[0])]
    assert answer.usage.completion_tokens == max_tokens
    (own,) = ensemble.generate(PROMPT, SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0))
    expected = [entry.logprob for entry in own.prompt_logprobs[1:]]
    assert told.token_logprobs[1 : len(prompt)] == pytest.approx(expected, abs=1e-4)


def test_a_prompt_that_fills_the_context_can_be_scored_and_no_more(http, ensemble):
    context = ensemble.runners[0].context
    filling = (ids(ensemble, PROMPT) * context)[:context]
    body = {"prompt": filling, "max_tokens": 0, "echo": True, "logprobs": 0, "schedule": "alternate"}
    (choice,) = http.post("/v1/completions", json=body).json()["choices"]
    assert len(choice["logprobs"]["token_logprobs"]) == context
    assert None not in choice["logprobs"]["token_logprobs"][1:]
    for change in ({"max_tokens": 1}, {"prompt": [*filling, filling[0]]}):
        answer = http.post("/v1/completions", json=body | change)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_scoring_a_prompt_feeds_each_member_once_whatever_the_schedule(http):
    told = []
    for schedule in ("plain", "fixed", "alternate", "cascade", "mixture", "auto"):
        body = {"prompt": PROMPT, "max_tokens": 0, "echo": True, "logprobs": 1, "schedule": schedule}
        answer = http.post("/v1/completions", json=body).json()
        told.append(answer["choices"][0]["logprobs"]["token_logprobs"][1:])
        assert answer["choices"][0]["finish_reason"] == "length"
        assert [member["calls"] for member in answer["metrics"]["members"].values()] == [1, 1]
        assert answer["metrics"]["drafters"]["drafter"]["calls"] == 0
    assert all(each == pytest.approx(told[0], abs=1e-4) for each in told)


def test_a_prompt_alone_costs_no_token_of_an_answer(http):
    def counted():
        lines = http.get("/metrics").text.splitlines()
        return next(line for line in lines if line.startswith("vllm:generation_tokens_total"))

    body = {"prompt": PROMPT, "max_tokens": 1}
    assert http.post("/v1/completions", json=body).json()["usage"]["completion_tokens"] == 1
    before = counted()
    options = {"include_usage": True, "continuous_usage_stats": True}
    body |= {"max_tokens": 0, "echo": True, "stream": True, "stream_options": options}
    lines = [line for line in http.post("/v1/completions", json=body).text.splitlines() if line]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert {chunk["usage"]["completion_tokens"] for chunk in chunks} == {0}
    assert chunks[-1]["metrics"]["tokens_per_second"] == 0
    assert counted() == before


def test_what_cannot_be_is_told_in_json():
    """Under a plausibility mask most tokens have no probability, and JSON has no infinity."""
    body = {"prompt": PROMPT, "echo": True, "logprobs": 20, "max_tokens": 4, "temperature": 0}
    with Served(Ensemble.load("demo:cd", combine={"plausibility": 0.5})) as running, running.http() as http:
        (choice,) = json.loads(http.post("/v1/completions", json=body).text, parse_constant=pytest.fail)["choices"]
        chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "logprobs": True, "top_logprobs": 20}
        for stream in (False, True):
            text = http.post("/v1/chat/completions", json=chat | {"stream": stream}).text
            assert "Infinity" not in text
            assert "-9999.0" in text
    assert -9999.0 in choice["logprobs"]["token_logprobs"]
    assert min(value for top in choice["logprobs"]["top_logprobs"][1:] for value in top.values()) == -9999.0


def test_streamed_logprobs_are_the_whole_ones(client):
    options = {"model": MODEL, "prompt": PROMPT, "max_tokens": 20, "seed": 3, "logprobs": 1}
    whole = client.completions.create(**options).choices[0]
    tokens, logprobs, text = [], [], ""
    for chunk in client.completions.create(**options, stream=True):
        for choice in chunk.choices:
            text += choice.text
            tokens += choice.logprobs.tokens
            logprobs += choice.logprobs.token_logprobs
    assert text == whole.text
    assert tokens == whole.logprobs.tokens
    assert logprobs == pytest.approx(whole.logprobs.token_logprobs, abs=1e-4)


def test_streamed_logprobs_that_are_known_late_are_all_there(client):
    """Under `mixture` a log-probability needs members that were not drawn, and these are fed many tokens later."""
    options = {"model": MODEL, "prompt": PROMPT, "max_tokens": 150, "seed": 3, "logprobs": 0}
    extra = {"schedule": "mixture", "ignore_eos": True}
    whole = client.completions.create(**options, extra_body=extra).choices[0]
    chunks = list(client.completions.create(**options, extra_body=extra, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    logprobs = [logprob for chunk in chunks for logprob in chunk.choices[0].logprobs.token_logprobs]
    assert logprobs == pytest.approx(whole.logprobs.token_logprobs, abs=1e-4)


def test_plans_and_weights_by_request(client):
    def create(**extra):
        return client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=12, seed=2, extra_body=extra)

    plain = create(schedule="plain", verification="coupled")
    alternate = create(schedule="alternate", verification="coupled")
    assert plain.choices[0].text == alternate.choices[0].text
    assert plain.metrics["schedule"] == "plain"
    assert plain.metrics["members"]["math"]["calls"] == 12
    assert alternate.metrics["members"]["math"]["calls"] < 12
    assert alternate.metrics["speculative_decoding"]["num_accepted_tokens"] > 0
    assert alternate.metrics["tokens_per_second"] > 0
    one = create(weights=[0.999, 0.001], schedule="plain", verification="coupled")
    other = create(weights=[0.001, 0.999], schedule="plain", verification="coupled")
    assert one.choices[0].text != other.choices[0].text


def test_the_servers_own_schedule_asked_for_by_name_is_still_its_own(ensemble):
    """With its gamma and proposer, which for `fixed` would be the drafter otherwise."""
    own = ensemble.with_plan(Plan(schedule="fixed", gamma=2, proposer="math"))
    body = {"prompt": PROMPT, "max_tokens": 12, "seed": 2}
    with Served(own) as running, running.http() as http:
        told = [
            http.post("/v1/completions", json=body | asked).json()["metrics"]
            for asked in ({}, {"schedule": "fixed"}, {"schedule": "fixed", "verification": "block"})
        ]
        other = http.post("/v1/completions", json=body | {"schedule": "cascade"}).json()["metrics"]
    assert set(told[0]["speculative_decoding"]["proposers"]) == {"math"}
    assert [each["speculative_decoding"] for each in told[1:]] == [told[0]["speculative_decoding"]] * 2
    assert other["schedule"] == "cascade"


def test_a_trace_tells_every_settled_token(client):
    body = {"trace": True, "schedule": "alternate"}
    chunks = list(
        client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=30, seed=4, stream=True, extra_body=body)
    )
    events = [event for chunk in chunks for event in getattr(chunk, "trace", [])]
    settled = [event for event in events if event["event"] == "settled"]
    rounds = [event for event in events if event["event"] == "round"]
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert [event["position"] for event in settled] == list(range(len(settled)))
    assert "".join(event["text"] for event in settled) == text
    assert {event["proposer"] for event in settled} <= {"math", "general", "drafter", None}
    assert any(event["proposer"] for event in settled)
    assert all((event["replaced"] is None) == (event["rejected"] is None) for event in settled)
    assert [event["round"] for event in rounds] == list(range(1, len(rounds) + 1))
    assert any(event["drafts"] for event in rounds)
    assert chunks[-1].metrics["members"]["math"]["calls"] > 0


def test_each_event_of_a_trace_says_whose_it_is(client):
    """Also in chunks that have no text to tell: tokens wait for their log-probabilities."""
    body = {"trace": True, "schedule": "alternate"}
    options = {"model": MODEL, "prompt": [PROMPT, "One"], "n": 2, "max_tokens": 20, "seed": 4, "logprobs": 1}
    chunks = list(client.completions.create(**options, stream=True, extra_body=body))
    events = [event for chunk in chunks for event in getattr(chunk, "trace", [])]
    for index in range(4):
        text = "".join(choice.text for chunk in chunks for choice in chunk.choices if choice.index == index)
        own = [event for event in events if event["index"] == index and event["event"] == "settled"]
        assert "".join(event["text"] for event in own) == text
        assert [event["position"] for event in own] == list(range(len(own)))


def test_usage_stands_in_the_last_chunk_and_is_null_before(http):
    body = {"prompt": PROMPT, "max_tokens": 4, "stream": True, "stream_options": {"include_usage": True}}
    with http.stream("POST", "/v1/completions", json=body) as answer:
        chunks = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
    assert [chunk["usage"] is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_tokens_are_told_where_they_stand_in_the_text(client, ensemble, is_streamed):
    """Parts of a character stand where it begins."""
    if is_streamed:
        options = {"logit_bias": dict.fromkeys(map(str, ids(ensemble, "é😀 x")), 100), "max_tokens": 24, "seed": 2}
        chunks = list(client.completions.create(model=MODEL, prompt="é", logprobs=0, stream=True, **options))
        told = [choice for chunk in chunks for choice in chunk.choices]
        text = "".join(choice.text for choice in told)
        offsets = [at for choice in told for at in choice.logprobs.text_offset]
        tokens = [token for choice in told for token in choice.logprobs.tokens]
    else:
        text = "😀 é日 x"
        options = {"echo": True, "logprobs": 1, "max_tokens": 0}
        told = client.completions.create(model=MODEL, prompt=text, **options).choices[0].logprobs
        offsets, tokens = told.text_offset, told.tokens
    assert any(token.startswith("bytes:") for token in tokens)
    assert offsets == sorted(offsets)
    for at, token in zip(offsets, tokens, strict=True):
        assert text[at:].startswith(token) or token.startswith("bytes:")


def test_the_members_own_rows_can_be_changed_as_in_the_library(client, ensemble):
    changed = {"member_temperature": 0.3, "member_top_p": 0.5}
    answer = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=20, seed=5, extra_body=changed)
    (own,) = ensemble.generate(PROMPT, SamplingParams(max_tokens=20, seed=5, **changed))
    assert answer.choices[0].text == own.text


def test_structured_output_keeps_to_its_grammar(client):
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "integer"}, "unit": {"enum": ["pencils", "boxes"]}},
        "required": ["answer", "unit"],
        "additionalProperties": False,
    }
    named = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    for seed in range(4):
        options = {"model": MODEL, "prompt": PROMPT, "max_tokens": 60, "seed": seed}
        answer = client.completions.create(**options, extra_body={"response_format": named}).choices[0]
        if answer.finish_reason == "stop":
            told = json.loads(answer.text)
            assert isinstance(told["answer"], int)
            assert told["unit"] in ("pencils", "boxes")
        matched = client.completions.create(**options, extra_body={"guided_regex": "[0-9]{2} (cats|dogs)!"}).choices[0]
        assert re.fullmatch("[0-9]{2} (cats|dogs)!", matched.text)
        assert matched.finish_reason == "stop"


def test_a_grammar_that_turns_out_to_be_too_much_is_the_clients_to_mend(client, ensemble):
    """And the text that it was asked for does not end as if it were whole."""
    names = [f"n{number}" for number in range(100)]
    rules = [f'{name}: {name} {name} | "a"' for name in names]
    extra = {"guided_grammar": "\n".join([f"start: {' | '.join(names)}", *rules])}
    (end,) = ensemble.tokenizer.end_ids
    with pytest.raises(openai.BadRequestError, match="the grammar cannot be followed any further"):
        client.completions.create(
            model=MODEL, prompt=PROMPT, max_tokens=40, logit_bias={str(end): -100}, extra_body=extra
        )


def test_a_grammar_does_not_change_what_a_seed_says(client):
    """Whoever drafts, coupled verification gives plain's text, under a grammar as without."""
    texts = {
        schedule: client.completions.create(
            model=MODEL, prompt=PROMPT, max_tokens=30, seed=7,
            extra_body={"guided_regex": "( [a-z]+){5}\\.", "schedule": schedule, "verification": "coupled"},
        ).choices[0].text
        for schedule in ("plain", "alternate", "fixed", "cascade")
    }  # fmt: skip
    assert len(set(texts.values())) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -1}, "temperature must be"),
        ({"top_p": 0}, "top_p must be"),
        ({"prompt": ""}, "empty"),
        ({"prompt": []}, "texts were asked"),
        ({"prompt": [10**9]}, "outside the vocabulary"),
        ({"prompt": "word " * 3000}, "context holds"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "without echo"),
        ({"n": 0}, "n:"),
        ({"best_of": 5}, "best_of other than n"),
        ({"best_of": 1, "n": 3}, "best_of other than n"),
        ({"prompt": [True, False]}, "prompt"),
        ({"extra_body": {"member_temperature": 0}}, "member_temperature must be"),
        ({"extra_body": {"guided_regex": "(a{1000}){1000}"}}, "cannot be followed"),
        ({"suffix": "x"}, "suffix is not supported"),
        ({"logprobs": 1000}, "logprobs"),
        ({"extra_body": {"schedule": "alternat"}}, "did you mean 'alternate'"),
        ({"extra_body": {"weights": [1, 2, 3]}}, "sum"),
        ({"extra_body": {"verification": "none"}}, "verification"),
        ({"extra_body": {"guided_regex": "(("}}, "regex"),
        ({"extra_body": {"guided_regex": "a", "guided_json": {}}}, "2 grammars"),
        ({"extra_body": {"schedule": "mixture"}, "temperature": 0.5}, "mixture"),
        ({"stop": ["x"] * 65}, "stop: List should have at most 64 items"),
        ({"stop": "x" * 1001}, "at most 1000 characters"),
        ({"extra_body": {"stop_token_ids": [5] * 257}}, "stop_token_ids: List should have at most 256 items"),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias: Dictionary should have at most 1024"),
        ({"extra_body": {"guided_regex": "a", "ignore_eos": True}}, "ignore_eos beside a grammar"),
        ({"extra_body": {"add_special_tokens": False}}, "give the prompt as token ids"),
    ],
)
def test_bad_requests_are_told_so(client, changes, message):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": MODEL, "prompt": PROMPT, "max_tokens": 4, **changes})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"temperature": -1}, "temperature"),
        ({"stop": [""]}, "stop"),
        ({"schedule": "alternat"}, "schedule"),
        ({"schedule": "mixture", "temperature": 0.5}, "schedule"),
        ({"weights": [1, 2, 3]}, "weights"),
        ({"verification": "none"}, "verification"),
        ({"prompt": None}, "prompt"),
        ({"prompt": [[1], "a"]}, "prompt"),
    ],
)
def test_an_error_names_its_field(http, changes, field):
    answer = http.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 4} | changes)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].split(".")[0] == field


def test_unknown_fields_are_ignored_and_unknown_models_are_not_there(client):
    assert client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=2, extra_body={"shiny": 1}).choices
    with pytest.raises(openai.NotFoundError, match="demo:we"):
        client.completions.create(model="gpt-5", prompt=PROMPT)

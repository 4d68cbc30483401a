"""What a client of the server sees of the law of text, for every kind of tokenizer."""

import contextlib
import json
from functools import cache

import pytest
import torch
from fastapi.testclient import TestClient

from cospec import Ensemble, SamplingParams
from cospec.core.combine import Mixture
from cospec.members import Member
from cospec.runner.hf.tokenizer import HfTokenizer
from cospec.server.app import create_app
from cospec.server.settings import ServerSettings
from cospec.toy import FunctionRunner

from .tokenizers import KINDS, tokenizer

kinds = pytest.mark.parametrize("kind", KINDS)
PROMPT = "the cat sat on é"


def random_rows(size, seed):
    def fn(prefix):
        torch.manual_seed(hash((seed, prefix[-1], len(prefix))) % 2**31)
        return torch.randn(size, dtype=torch.float64) * 3

    return fn


@cache
def ensemble(kind):
    size = len(tokenizer(kind))
    source = HfTokenizer(tokenizer(kind))
    members = [
        Member(model=FunctionRunner(size, random_rows(size, seed), tokenizer=source), name=f"m{seed}")
        for seed in range(2)
    ]
    return Ensemble(members, Mixture([0.5, 0.5]), schedule="alternate")


@pytest.fixture(scope="module")
def served():
    with contextlib.ExitStack() as stack:
        yield cache(lambda kind: stack.enter_context(TestClient(create_app(ensemble(kind), ServerSettings(model="m")))))


def completed(client, **body):
    answer = client.post("/v1/completions", json={"model": "m", "max_tokens": 12, "seed": 1, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def is_whole(spelled):
    return not spelled.startswith(("bytes:", "token_id:"))


@kinds
@pytest.mark.parametrize("seed", range(6))
def test_tokens_stand_where_text_offset_says(kind, seed, served):
    choice = completed(served(kind), prompt=PROMPT, echo=True, logprobs=3, seed=seed)
    source = HfTokenizer(tokenizer(kind))
    logprobs, special = choice["logprobs"], set(source.special.values())
    for spelled, at in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        token = spelled.removesuffix(" ") if source.drops_last_space else spelled
        if is_whole(token) and token not in special and "\ufffd" not in choice["text"]:
            assert choice["text"][at : at + len(token)] == token


@kinds
@pytest.mark.parametrize("seed", range(6))
def test_an_echoed_answer_is_the_text_of_prompt_and_answer(kind, seed, served):
    source = HfTokenizer(tokenizer(kind))
    (result,) = ensemble(kind).generate(PROMPT, SamplingParams(max_tokens=12, seed=seed))
    whole = source.decode([*source.encode(PROMPT), *result.token_ids])
    # A vocabulary without bytes has no entry for every letter.
    said = source.decode(source.encode(PROMPT))
    assert said + result.text == whole
    choice = completed(served(kind), prompt=PROMPT, echo=True, seed=seed)
    assert choice["text"] == PROMPT + result.text


@kinds
def test_as_many_alternatives_are_reported_as_were_asked_for(kind, served):
    choice = completed(served(kind), prompt=PROMPT, logprobs=20, temperature=0)
    assert {len(each) for each in choice["logprobs"]["top_logprobs"]} == {20}


@kinds
@pytest.mark.parametrize("stream", [False, True])
def test_the_bytes_of_a_chat_joined_are_its_text(kind, stream, served):
    body = {"model": "m", "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 16, "seed": 3}
    answer = served(kind).post("/v1/chat/completions", json={**body, "logprobs": True, "top_logprobs": 2}).json()
    choice = answer["choices"][0]
    raw = bytes(byte for entry in choice["logprobs"]["content"] for byte in entry["bytes"])
    text, content = raw.decode("utf-8", "replace"), choice["message"]["content"]
    # Where words end with a space, that of the prompt's last word stands in front, and that of the answer's is lost.
    is_shifted = HfTokenizer(tokenizer(kind)).drops_last_space
    assert (f" {text}".removesuffix(" ") if is_shifted else text) == content


@kinds
def test_a_stop_string_in_the_answer_is_found_as_the_client_reads_it(kind, served):
    text = completed(served(kind), prompt=PROMPT)["text"]
    for start in range(0, max(len(text) - 3, 1), 3):
        stop = text[start : start + 3]
        if stop and "\ufffd" not in stop:
            assert completed(served(kind), prompt=PROMPT, stop=[stop])["text"] == text[: text.index(stop)]


@kinds
def test_what_streams_is_what_is_answered_at_once(kind, served):
    whole = completed(served(kind), prompt=PROMPT, logprobs=2)
    pieces, offsets = "", []
    body = {"model": "m", "prompt": PROMPT, "max_tokens": 12, "seed": 1, "logprobs": 2, "stream": True}
    with served(kind).stream("POST", "/v1/completions", json=body) as lines:
        for line in lines.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    pieces += choice["text"]
                    offsets += choice["logprobs"]["text_offset"]
    assert (pieces, offsets) == (whole["text"], whole["logprobs"]["text_offset"])

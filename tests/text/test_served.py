"""What a client of the server sees of the law of text, for every kind of tokenizer."""

import contextlib
import json
import unicodedata
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

from ..properties import examples
from .kinds import KINDS, tokenizer

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


@pytest.mark.larger
@kinds
@pytest.mark.parametrize("seed", range(examples(1)))
def test_tokens_stand_where_text_offset_says(kind, seed, served):
    choice = completed(served(kind), prompt=PROMPT, echo=True, logprobs=3, seed=seed)
    source = HfTokenizer(tokenizer(kind))
    logprobs, special = choice["logprobs"], set(source.special.values())
    ids = source.encode(PROMPT)
    is_read_as_given = source.decode(ids) == PROMPT
    for index, (spelled, at) in enumerate(zip(logprobs["tokens"], logprobs["text_offset"], strict=True)):
        token = spelled.removesuffix(" ") if source.drops_last_space else spelled
        # Of a prompt that the tokenizer reads otherwise the letters are other ones: see below.
        is_said = index >= len(ids) or is_read_as_given
        if is_said and is_whole(token) and token not in special and "\ufffd" not in choice["text"][: at + len(token)]:
            assert choice["text"][at : at + len(token)] == token


@pytest.mark.parametrize(
    ("kind", "prompt"),
    [
        ("word pieces", "The  CAT sat,on the LÓG"),
        ("metaspace, NFKC, lower case", "The CAT sat \ufb01nely ①"),
        ("byte-level, NFKC", "the \ufb01 cat ①② sat"),
        ("byte-level with a space in front", "the cat sat"),
        ("byte-level with BOS", "<|im_start|>the cat<|im_end|>\nsat"),
        ("byte fallback", "<|im_start|>the cat<|im_end|>☺ sat"),
        ("flags of added entries", "The  CAT <mask> SAT<both> on"),
    ],
)
def test_tokens_of_a_prompt_that_is_read_otherwise_stand_in_it_and_the_answers_behind_it(kind, prompt, served):
    source = HfTokenizer(tokenizer(kind))
    ids = source.encode(prompt)
    assert source.decode(ids) != prompt
    choice = completed(served(kind), prompt=prompt, echo=True, logprobs=1)
    offsets = choice["logprobs"]["text_offset"]
    assert offsets[len(ids)] == len(prompt)
    ends = [*offsets[1 : len(ids)], len(prompt)]
    for start, end, spelled in zip(offsets, ends, choice["logprobs"]["tokens"], strict=False):
        letters = "".join(
            letter
            for letter in unicodedata.normalize("NFKD", prompt[start:end]).lower()
            if not unicodedata.combining(letter)
        )
        if end > start and is_whole(spelled) and spelled != "<unk>":
            # Of the tokens of one letter the last has it.
            assert letters.strip().endswith(spelled.strip())


@pytest.mark.larger
@kinds
@pytest.mark.parametrize("seed", range(examples(1)))
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
    own = HfTokenizer(tokenizer(kind))
    if own.drops_last_space:
        asked = served(kind).post("/tokenize", json={key: body[key] for key in ("model", "messages")}).json()
        last = next(filter(None, map(own.token_bytes, reversed(asked["tokens"]))), b"")
        text = f"{' ' if last.endswith(b' ') else ''}{text}".removesuffix(" ")
    assert text == content


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

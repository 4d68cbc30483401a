"""Other programs that speak to OpenAI's endpoints, unmodified, against a started server."""

import asyncio
import json
import os
import subprocess
import sys

import httpx
import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

from cospec import SamplingParams, demo

from .conftest import MODEL

QUESTIONS = [
    {"question": "Question: How much is 2 + 2?\nAnswer:", "choices": [" 4", " 22", " It is 5"], "gold": 0},
    {"question": "Question: Tom has 3 boxes of 4 pens. How many pens?\nAnswer:", "choices": [" 7", " 12"], "gold": 1},
]
TASK = """
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: gold
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def chat(served):
    made = ChatOpenAI(base_url=f"{served.url}/v1", api_key="none", model=MODEL, temperature=0, max_tokens=24)
    yield made
    made.root_client.close()
    asyncio.run(made.root_async_client.close())


def test_langchain_invokes_and_streams(chat, ensemble):
    turns = [SystemMessage("Be brief."), HumanMessage("How much is 2 + 2?")]
    prompt = "Be brief.\nQuestion: How much is 2 + 2?\nAnswer:"
    (own,) = ensemble.generate(prompt, SamplingParams(max_tokens=24, temperature=0))
    answer = chat.invoke(turns)
    assert answer.content == own.text
    assert answer.usage_metadata["output_tokens"] == own.completion_tokens
    assert answer.response_metadata["finish_reason"] == own.finish_reason
    chunks = list(chat.stream(turns))
    assert len(chunks) > 2
    assert "".join(chunk.content for chunk in chunks) == own.text


def test_langchain_with_a_schema_of_its_answer(chat):
    schema = {
        "title": "answer",
        "type": "object",
        "properties": {"number": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["number"],
        "additionalProperties": False,
    }
    told = chat.with_structured_output(schema, method="json_schema").invoke("How much is 2 + 2?")
    assert 0 <= told["number"] <= 9


@pytest.mark.long
def test_lm_evals_log_likelihoods_are_the_librarys_own(served, ensemble, tmp_path):
    """`local-completions`, with the server's own tokenizer, as a user calls it."""
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    (tmp_path / "sums.yaml").write_text(TASK.format(file=file))
    command = [
        *(sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--tasks", "sums"),
        *("--model_args", f"model={MODEL},base_url={served.url}/v1/completions,num_concurrent=2,max_length=1024"),
        *("--include_path", str(tmp_path), "--output_path", str(tmp_path / "out"), "--log_samples"),
    ]
    offline = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    ran = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    (samples,) = (tmp_path / "out").rglob("samples_sums_*.jsonl")
    told = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(told) == len(QUESTIONS)
    for sample in told:
        for (answered,), choice in zip(sample["resps"], sample["doc"]["choices"], strict=True):
            logprob, is_greedy = _likelihood(ensemble, sample["doc"]["question"], choice)
            assert float(answered[0]) == pytest.approx(logprob, abs=1e-4)
            assert (str(answered[1]) == "True") == is_greedy


def _likelihood(ensemble, context, continuation):
    """log r of the continuation by the Python API, and whether r would have said it."""
    before = ensemble.tokenizer.encode(context)
    ids = ensemble.tokenizer.encode(context + continuation)
    assert ids[: len(before)] == before
    (result,) = ensemble.generate(ids, SamplingParams(max_tokens=1, logprobs=0, prompt_logprobs=1))
    entries = result.prompt_logprobs[len(before) :]
    return sum(entry.logprob for entry in entries), all(entry.token == entry.top[0][0] for entry in entries)


async def _benchmarked(client, prompt, tokens):
    """One request as `vllm bench serve` and guidellm send it: its tokens as counted on the way, and at the end."""
    body = {
        "model": MODEL,
        "prompt": prompt,
        "temperature": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": tokens,
        "logprobs": None,
        "stop": None,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "ignore_eos": True,
    }
    chunks = []
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line:
                chunks.append(line.removeprefix("data: "))
    assert chunks.pop() == "[DONE]"
    *told, last = map(json.loads, chunks)
    assert last["choices"] == []
    counts = [chunk["usage"]["completion_tokens"] for chunk in told]
    return "".join(chunk["choices"][0]["text"] for chunk in told if chunk["choices"]), counts, last["usage"]


def test_a_benchmarks_traffic_is_counted_to_the_token(served, ensemble):
    prompts = demo.prompts()[:12]
    lengths = [5 + 3 * index for index in range(len(prompts))]

    async def run():
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
            pairs = zip(prompts, lengths, strict=True)
            return await asyncio.gather(*(_benchmarked(client, prompt, length) for prompt, length in pairs))

    for (text, counts, usage), prompt, length in zip(asyncio.run(run()), prompts, lengths, strict=True):
        assert usage["completion_tokens"] == length == counts[-1]
        assert usage["prompt_tokens"] == len(ensemble.tokenizer.encode(prompt))
        assert counts == sorted(counts)
        assert text

"""`vllm serve` of exported ensembles: OpenAI's client is answered, and `cospec verify --vllm` finds faults."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest
from openai import BadRequestError, OpenAI
from typer.testing import CliRunner

from cospec import Ensemble, SamplingParams
from cospec.cli import app
from cospec.vllm.middleware import REFUSED

from .members import ensemble_file, export

SECONDS_TO_START = 400
TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"


@contextmanager
def serving(command, log):
    """The address of what the command of `cospec export` serves. `vllm serve` is this module's, by another name."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert command[:2] == ["vllm", "serve"]
    module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model"]
    own = ["--enforce-eager", "--max-num-seqs", "8", "--port", str(port)]
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("w") as out:
        process = subprocess.Popen([*module, *command[2:], *own], stdout=out, stderr=out, env=environment)
        try:
            wait_for(f"http://127.0.0.1:{port}", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


def wait_for(url, process, log):
    until = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            with urllib.request.urlopen(f"{url}/health"):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-4000:])


@pytest.fixture(scope="module")
def served(tiny_models, tmp_path_factory):
    """Without drafts, with a chat template: its address, and the ensemble's file."""
    folder = tmp_path_factory.mktemp("served")
    for name in ("small", "deep"):
        (tiny_models / name / "chat_template.jinja").write_text(TEMPLATE)
    path = ensemble_file(folder, [tiny_models / "small", tiny_models / "deep"])
    with serving(export(path, folder / "out"), folder / "log") as url:
        yield url, path


@pytest.fixture
def client(served):
    return OpenAI(base_url=f"{served[0]}/v1", api_key="none")


def verified(url, path, *arguments):
    ran = CliRunner().invoke(
        app, ["verify", "--vllm", url, "--ensemble", str(path), "--prompts", str(prompts(path)), "--json", *arguments]
    )
    return ran.exit_code, {check["name"]: check for check in json.loads(ran.stdout)["checks"]}


def prompts(path):
    """Texts of the tiny models' words."""
    file = path.with_name("prompts.jsonl")
    texts = [" ".join(f"w{2 + (7 * i + 11 * j) % 100}" for i in range(12)) for j in range(3)]
    file.write_text("".join(json.dumps(text) + "\n" for text in texts))
    return file


def test_a_chat_is_streamed(client, served):
    stream = client.chat.completions.create(
        model="mine", messages=[{"role": "user", "content": "w3 w4 w5"}], temperature=0, max_tokens=8, stream=True
    )
    texts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    ensemble = Ensemble.load(served[1], schedule="plain")
    chat = [{"role": "user", "content": "w3 w4 w5"}]
    (result,) = ensemble.generate([chat], SamplingParams(temperature=0, max_tokens=8))
    assert "".join(texts).split() == result.text.split()
    assert len(texts) > 4


def test_log_probabilities_are_those_of_r(client, served):
    found = client.completions.create(model="mine", prompt="w3 w4 w5", temperature=0, max_tokens=6, logprobs=2)
    ensemble = Ensemble.load(served[1], schedule="plain")
    (result,) = ensemble.generate(["w3 w4 w5"], SamplingParams(temperature=0, max_tokens=6, logprobs=2))
    assert found.choices[0].logprobs.token_logprobs == pytest.approx(
        [entry.logprob for entry in result.logprobs], abs=1e-3
    )


def test_several_samples_and_a_stop_string(client):
    found = client.completions.create(model="mine", prompt="w3 w4 w5", n=2, max_tokens=6, temperature=1, seed=1)
    assert len({choice.text for choice in found.choices}) == 2
    asked = {
        "model": "mine",
        "prompt": "w3 w4 w5",
        "temperature": 0,
        "max_tokens": 12,
        "extra_body": {"ignore_eos": True},
    }
    (whole,) = client.completions.create(**asked, logprobs=1).choices
    stop = whole.logprobs.tokens[5]
    (cut,) = client.completions.create(**asked, stop=stop).choices
    assert cut.finish_reason == "stop"
    assert whole.text.startswith(cut.text)
    assert len(cut.text) < len(whole.text)
    assert stop not in cut.text


@pytest.mark.parametrize("field", REFUSED)
def test_what_belongs_to_cospec_alone_is_refused(client, field):
    with pytest.raises(BadRequestError, match=f"{field} is not supported here"):
        client.completions.create(model="mine", prompt="w3", extra_body={field: 1})


def test_weights_are_refused_wherever_a_request_has_them(client):
    weights = {"vllm_xargs": {"weights": [0.9, 0.1]}}
    chat = [{"role": "user", "content": "w3"}]
    for ask in (
        lambda: client.completions.create(model="mine", prompt=["w3", "w4"], n=2, max_tokens=2, extra_body=weights),
        lambda: client.chat.completions.create(model="mine", messages=chat, max_tokens=2, extra_body=weights),
        lambda: client.responses.create(model="mine", input="w3", max_output_tokens=2, extra_body=weights),
    ):
        with pytest.raises(BadRequestError, match="weights is not supported here"):
            ask()


SHAPED = {
    "a token that is forced": {"logit_bias": {7: 100.0}},
    "a token that is forbidden": {"logit_bias": {4: -100.0, 34: -100.0, 63: -100.0}},
    "penalties": {"presence_penalty": 1.5, "frequency_penalty": 1.0},
    "a penalty that multiplies": {"repetition_penalty": 1.4},
    "the likeliest alone": {"min_p": 1.0, "temperature": 1.0},
}


@pytest.mark.parametrize("case", SHAPED)
def test_what_shapes_r_shapes_it_as_with_cospec(client, served, case):
    asked = {"temperature": 0.0, "max_tokens": 16, "ignore_eos": True} | SHAPED[case]
    found = client.completions.create(
        model="mine", prompt="w3 w4 w5", max_tokens=16, extra_body=asked | {"return_token_ids": True}
    )
    (result,) = Ensemble.load(served[1], schedule="plain").generate(["w3 w4 w5"], SamplingParams(**asked))
    assert found.choices[0].token_ids == result.token_ids


def test_structure_and_a_prompts_own_log_probabilities(client, served):
    choice = {"structured_outputs": {"choice": ["w7w8", "w9"]}}
    found = client.completions.create(model="mine", prompt="w3", max_tokens=8, extra_body=choice)
    assert found.choices[0].text in ("w7w8", "w9")
    asked = {"model": "mine", "prompt": "w3 w4 w5", "temperature": 0, "max_tokens": 2}
    (echoed,) = client.completions.create(**asked, echo=True, logprobs=0).choices
    assert echoed.text.startswith("w3 w4 w5")
    (result,) = Ensemble.load(served[1], schedule="plain").generate(
        ["w3 w4 w5"], SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=0, logprobs=0)
    )
    own = [entry.logprob for entry in (*result.prompt_logprobs[1:], *result.logprobs)]
    assert echoed.logprobs.token_logprobs[1:] == pytest.approx(own, abs=1e-3)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([3] * 600, "maximum context length"), ([3, 120], "out of vocabulary"), ("", "non-empty")],
    ids=["too long", "an entry of padding", "empty"],
)
def test_prompts_that_r_does_not_have_are_refused_and_others_go_on(client, prompt, message):
    with pytest.raises(BadRequestError, match=message):
        client.completions.create(model="mine", prompt=prompt, max_tokens=2)
    assert client.completions.create(model="mine", prompt="w3 \u6f22\u5b57 \U0001f600", max_tokens=2).choices[0].text


def test_the_verification_passes_where_nothing_is_drafted(served):
    status, checks = verified(*served)
    assert (status, [check["outcome"] for check in checks.values()]) == (0, ["equal", "equal", "passed"])
    assert "0 tokens drafted" in checks["sampled text"]["detail"]


def test_another_ensemble_than_the_one_served_is_found(served, tiny_models, tmp_path):
    weights = {"type": "mixture", "weights": [0.8, 0.2]}
    other = ensemble_file(tmp_path, [tiny_models / "small", tiny_models / "deep"], combine=weights)
    status, checks = verified(served[0], other)
    assert (status, checks["log r"]["outcome"]) == (1, "different")
    assert "55005" not in checks["sampled text"]["detail"]


def test_faulty_sampling_under_speculation_is_found_and_named(tiny_models, tmp_path):
    """vLLM's CPU build has it; should a release be mended, this test says so by failing."""
    drafter = str(tiny_models / "drafter")
    path = ensemble_file(tmp_path, [tiny_models / "small", tiny_models / "deep"], proposer=drafter)
    with serving(export(path, tmp_path / "out"), tmp_path / "log") as url:
        status, checks = verified(url, path, "--samples", "200")
    assert (status, checks["greedy text"]["outcome"], checks["log r"]["outcome"]) == (1, "equal", "equal")
    assert checks["sampled text"]["outcome"] == "failed"
    assert "vllm#55005" in checks["sampled text"]["detail"]


def test_a_server_that_is_none_is_named(tmp_path, tiny_models):
    path = ensemble_file(tmp_path, [tiny_models / "small"])
    ran = CliRunner().invoke(app, ["verify", "--vllm", "http://127.0.0.1:9", "--ensemble", str(path)])
    assert (ran.exit_code, "is `vllm serve` running there?" in ran.stderr) == (2, True)

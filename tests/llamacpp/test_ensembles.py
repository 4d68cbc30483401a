"""Ensembles of GGUF files in llama.cpp: what they decode, and every command that decodes them."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from openai import OpenAI
from typer.testing import CliRunner

from benchmarks.gguf_files import lora_file, requantised
from cospec import Ensemble, LoadOptions, Member, Mixture, SamplingParams, demo
from cospec.cli import app
from cospec.errors import DoesNotFit, UnsupportedModel
from cospec.runner import Feed, memory
from cospec.runner.hf import HfRunner
from cospec.runner.hf import load as load_by_transformers
from cospec.runner.llamacpp import LlamaCppRunner
from cospec.study.ledger import Ledger
from cospec.study.memory import memory as memory_of
from cospec.testing import check_runner

from ..server.conftest import Served

needs_smollm2 = pytest.mark.skipif(not demo.has_smollm2(), reason=demo.HOW_TO_GET_SMOLLM2)
PIPE = {"FORCE_COLOR": None, "COLUMNS": "200"}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def run(*arguments, input=None):
    result = CliRunner().invoke(app, [*map(str, arguments)], env=PIPE, input=input)
    assert result.exit_code == 0, result.output
    return result.stdout


def pair(*files, **settings) -> Ensemble:
    return Ensemble([str(file) for file in files], device="cpu", keep_measurements=False, **settings)


def own_rows(runner, tokens) -> torch.Tensor:
    slot = runner.open()
    (rows,) = runner.feed([Feed(slot, tokens, len(tokens))])
    runner.close(slot)
    return rows


@pytest.fixture(scope="session")
def more_bits(folder, real):
    return requantised(real, folder / "smollm2.Q8_0.gguf")


@pytest.fixture(scope="session")
def tuned(folder, real):
    return lora_file(demo._FOLDER / "adapters" / "smollm2-gsm8k", real, folder / "gsm8k-lora.gguf")


def test_log_r_of_a_pair_is_its_members_rows_combined_by_hand(exact, other):
    check_log_r(exact, other)


@needs_smollm2
def test_log_r_of_a_real_pair_is_its_members_rows_combined_by_hand(real, more_bits):
    check_log_r(real, more_bits)


def check_log_r(one, two):
    weights = (0.3, 0.7)
    ensemble = pair(one, two, combine=Mixture(weights), schedule="plain")
    params = SamplingParams(max_tokens=12, temperature=0, logprobs=5, ignore_eos=True)
    (result,) = ensemble.generate("Two and two make", params)
    prompt = list(ensemble.rendered("Two and two make")[0])
    compared = 0
    slots = [runner.open() for runner in ensemble.runners]
    for at, entry in enumerate(result.logprobs):
        # Fed as decoding feeds them: the prompt, then token by token, both members after the same.
        tokens = prompt if at == 0 else [result.token_ids[at - 1]]
        rows = [
            runner.feed([Feed(slot, tokens, 1)])[0][0].double().log_softmax(-1)
            for runner, slot in zip(ensemble.runners, slots, strict=True)
        ]
        by_hand = torch.logsumexp(torch.stack([row + np.log(w) for row, w in zip(rows, weights, strict=True)]), 0)
        for token, logprob in entry.top:
            assert abs(float(by_hand[token]) - logprob) < 1e-3
            compared += 1
    assert compared >= 60


def test_verify_finds_every_schedule_exact(exact, other, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('"Once upon a time"\n"One, two"\n')
    shown = run(
        "verify", "--member", exact, "--member", other, "--proposer", "lookup", "--max-tokens", 6, "--samples", 60,
        "--prompts", prompts, "--json",
    )  # fmt: skip
    outcomes = {check["outcome"] for check in json.loads(shown)["checks"]}
    assert outcomes <= {"equal", "ties", "passed"}
    assert "passed" in outcomes


@needs_smollm2
def test_a_chat_of_two_files_is_answered(real, more_bits):
    shown = run(
        "chat", "--member", real, "--member", more_bits, "--temperature", 0, "--max-tokens", 8, "--schedule", "plain",
        input="What is the capital of France?\n",
    )  # fmt: skip
    (own,) = pair(real, more_bits, schedule="plain").generate([QUESTION], SamplingParams(max_tokens=8, temperature=0))
    assert shown.strip() == own.text.strip() != ""


def test_a_server_answers_several_clients(exact, other):
    ensemble = pair(exact, other, schedule="plain")
    with Served(ensemble, model="tiny") as served:
        client = OpenAI(base_url=f"{served.url}/v1", api_key="none")
        answers = [
            client.completions.create(model="tiny", prompt="Once", max_tokens=8, temperature=0).choices[0].text
            for _ in range(2)
        ]
        chat = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=4)
    assert answers[0] == answers[1]
    assert chat.usage.completion_tokens > 0


def test_a_pilot_of_two_files_comes_to_a_verdict(exact, other, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"members: [{exact}, {other}]\nproposer: lookup\ndevice: cpu\n")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Once upon {i}"}) + "\n" for i in range(6)))
    result = CliRunner().invoke(
        app,
        [
            "pilot", "--ensemble", str(tmp_path / "mine.yaml"), "--prompts", str(prompts), "--max-tokens", "8",
            "--out", str(tmp_path / "pilot"), "--num-prompts", "3", "--repeats", "1",
        ],
        env=PIPE,
    )  # fmt: skip
    assert result.exit_code in (0, 3, 4), result.output
    found = json.loads((tmp_path / "pilot" / "results.json").read_text())
    assert found


def test_sequences_that_are_aborted_free_their_slots(exact):
    ensemble = pair(exact, schedule="plain")
    (runner,) = ensemble.runners
    params = SamplingParams(max_tokens=200, seed=1, ignore_eos=True)
    for _ in range(3):
        stream = ensemble.stream(["Once", "Two", "Three"], params)
        for _ in range(4):
            next(stream)
        stream.close()
    assert runner.store._open == set()
    assert runner.open().sequence == 0


def test_a_process_that_is_killed_while_it_decodes_ends(exact):
    command = [
        sys.executable, "-m", "cospec", "generate", "Once", "--member", str(exact), "--max-tokens", "100000",
        "--schedule", "plain", "-n", "4",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    time.sleep(20)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert b"Traceback" not in error
    assert process.returncode in (0, 2, 130)


@needs_smollm2
def test_an_adapter_of_llama_cpps_is_the_same_as_in_transformers(real, tuned):
    ensemble = Ensemble(
        [str(real), Member(model=str(tuned), name="tuned", options=LoadOptions(base=str(real)))],
        device="cpu",
        schedule="plain",
        keep_measurements=False,
    )
    base, adapted = ensemble.runners
    assert isinstance(base, LlamaCppRunner)
    assert isinstance(adapted, LlamaCppRunner)
    assert base.store.weights is adapted.store.weights
    tokens = list(ensemble.rendered("Tom has 3 boxes with 12 pencils each.")[0])
    expected = load_by_transformers(demo.model_path("demo:smollm2-gsm8k"), LoadOptions(device="cpu", dtype="float32"))
    wanted = own_rows(expected, tokens)
    spread = wanted.std()
    near, far = [float((own_rows(each, tokens) - wanted).abs().mean() / spread) for each in (adapted, base)]
    assert near < 0.1 < far, (near, far)
    # One context's adapter leaves the other alone.
    unpacked = load_by_transformers(str(real), LoadOptions(device="cpu", dtype="float32"))
    assert float((own_rows(base, tokens) - own_rows(unpacked, tokens)).abs().mean() / spread) < 0.1
    rows = memory_of(ensemble, Ledger(settings={}))
    assert rows[1].weights == tuned.stat().st_size


@needs_smollm2
def test_an_adapter_needs_its_base_and_its_own(real, tuned, exact):
    with pytest.raises(UnsupportedModel, match=r"that is an adapter, and no language model.*as `base`"):
        pair(tuned)
    with pytest.raises(UnsupportedModel, match=r"llama.cpp cannot put the adapter .*gsm8k-lora.* on 'exact\.gguf'"):
        Ensemble([Member(model=str(tuned), options=LoadOptions(base=str(exact)))], device="cpu")
    with pytest.raises(UnsupportedModel, match=r"an adapter in a GGUF file, which llama.cpp alone reads"):
        Ensemble([Member(model=str(tuned), options=LoadOptions(base=str(real), backend="transformers"))], device="cpu")
    with pytest.raises(UnsupportedModel, match="is no adapter"):
        Ensemble([Member(model=str(exact), options=LoadOptions(base=str(real)))], device="cpu")


@needs_smollm2
def test_bundled_ensembles_with_adapters_and_layers_stay_transformers(real):
    ensemble = Ensemble.load("demo:chat-we", dtype="auto", schedule="plain", keep_measurements=False)
    assert not any(isinstance(runner, LlamaCppRunner) for runner in ensemble.runners)
    assert isinstance(Ensemble(["demo:smollm2"], device="cpu", schedule="plain").runners[0], LlamaCppRunner)
    chosen = Ensemble(["demo:smollm2"], device="cpu", backend="transformers", schedule="plain")
    assert isinstance(chosen.runners[0], HfRunner)


@needs_smollm2
def test_rows_of_a_quantised_file_are_those_of_its_weights_unpacked(real):
    ensemble = pair(real, schedule="plain")
    tokens = list(ensemble.rendered("The capital of France is the city of Paris, which lies on the Seine.")[0])
    expected = own_rows(load_by_transformers(str(real), LoadOptions(device="cpu", dtype="float32")), tokens)
    off = float((own_rows(ensemble.runners[0], tokens) - expected).abs().mean() / expected.std())
    assert off < 0.1
    assert check_runner(ensemble.runners[0], tolerance=4.0) > 0


def test_a_drafter_of_transformers_drafts_for_a_member_of_llama_cpps(exact):
    part = Member(model=str(exact), name="layers", options=LoadOptions(device="cpu", layers=1))
    whole = Member(model=str(exact), options=LoadOptions(device="cpu", backend="llama.cpp"))
    ensemble = Ensemble([whole], proposer=part, schedule="fixed", keep_measurements=False)
    assert isinstance(ensemble.runners[0], LlamaCppRunner)
    params = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)
    plain = ensemble.with_plan(schedule="plain", proposer=None)
    assert ensemble.generate("Once", params)[0].token_ids == plain.generate("Once", params)[0].token_ids


def test_a_recurrent_model_is_refused_by_name(tmp_path):
    with pytest.raises(UnsupportedModel, match=r"mamba\) keeps a recurrent state, which llama.cpp cannot roll back"):
        pair(write_mamba(tmp_path / "mamba.gguf"), backend="llama.cpp")


def write_mamba(path):
    """A tiny Mamba without a tokenizer."""
    width, inner, state, conv, rank, entries = 32, 64, 8, 4, 2, 64
    writer = GGUFWriter(path, "mamba")
    numbers = {
        "context_length": 128, "embedding_length": width, "feed_forward_length": 0, "attention.head_count": 0,
        "block_count": 1, "ssm.conv_kernel": conv, "ssm.inner_size": inner, "ssm.state_size": state,
        "ssm.time_step_rank": rank, "vocab_size": entries,
    }  # fmt: skip
    for key, value in numbers.items():
        writer.add_uint32(f"mamba.{key}", value)
    writer.add_float32("mamba.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_string("tokenizer.ggml.model", "none")
    shapes = {
        "token_embd.weight": (entries, width), "output_norm.weight": (width,), "blk.0.attn_norm.weight": (width,),
        "blk.0.ssm_in.weight": (2 * inner, width), "blk.0.ssm_conv1d.weight": (inner, conv),
        "blk.0.ssm_conv1d.bias": (inner,), "blk.0.ssm_x.weight": (rank + 2 * state, inner),
        "blk.0.ssm_dt.weight": (inner, rank), "blk.0.ssm_dt.bias": (inner,), "blk.0.ssm_a": (inner, state),
        "blk.0.ssm_d": (inner,), "blk.0.ssm_out.weight": (width, inner),
    }  # fmt: skip
    dice = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(name, (dice.standard_normal(shape) / 8).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_files_that_do_not_fit_are_refused_before_they_are_read(exact, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with pytest.raises(DoesNotFit, match=r"exact\.gguf"):
        pair(exact)


def test_the_memory_of_members_is_told(exact, other):
    ensemble = pair(exact, other, schedule="plain")
    ledger = Ledger(settings={})
    rows = memory_of(ensemble, ledger)
    for row, file in zip(rows, (exact, other), strict=True):
        assert 0 < row.weights <= file.stat().st_size
        assert row.device == "cpu"

"""Adapters: rows are those of the merged model whatever is fed beside them, the base is loaded once, and what does not
fit is refused by name."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from cospec import Arithmetic, DoesNotFit, Ensemble, Member, ModelNotFound, SamplingParams, UnsupportedModel
from cospec.members import shared_runners
from cospec.runner import Feed, LoadOptions, Runner
from cospec.runner.hf import HfRunner, load, packing, storages
from cospec.runner.hf.compiled.forward import CompiledForward
from cospec.runner.hf.fused import FusedForward
from cospec.runner.hf.load import load_whole
from cospec.runner.pool import one_pool
from cospec.server.app import create_app
from cospec.server.settings import ServerSettings
from cospec.study.ledger import Ledger
from cospec.study.memory import memory

from .adapters import adapted, rename, rewrite
from .models import VOCAB, saved
from .properties import examples

CPU = LoadOptions(device="cpu")
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("base"), num_entries=VOCAB)


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory) -> Path:
    """The folder of an adapter of `base`."""
    folder = tmp_path_factory.mktemp("tuned")
    adapted(folder, base)
    return folder


@pytest.fixture
def damaged(tuned, tmp_path) -> Path:
    """A copy of the adapter, to be changed."""
    return shutil.copytree(tuned, tmp_path / "damaged")


@torch.inference_mode()
def plain(model, tokens, count):
    """The last rows of an unbatched pass of a model of transformers."""
    return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, len(tokens) - count :]


def play(runners: list[Runner], models: list, rng: random.Random) -> None:
    """Ragged batches with rollbacks, of two sequences of each runner, whose rows are compared with the models'."""
    server = runners[0]
    slots = [(runner.open(), model) for runner, model in zip(runners, models, strict=True) for _ in range(2)]
    texts: dict = {slot: [] for slot, _ in slots}
    for _ in range(4):
        for slot, _ in rng.sample(slots, 2):
            server.trim(slot, rng.randint(0, slot.length))
            del texts[slot][slot.length :]
        fed = rng.sample(slots, rng.randint(1, len(slots)))
        feeds = []
        for slot, _ in fed:
            tokens = [rng.randrange(VOCAB) for _ in range(rng.randint(1, 6))]
            feeds.append(Feed(slot, tokens, rng.randint(1, len(tokens))))
            texts[slot] += tokens
        for feed, rows, (slot, model) in zip(feeds, server.feed(feeds), fed, strict=True):
            wanted = plain(model, texts[slot], feed.rows)
            torch.testing.assert_close(rows, wanted, atol=5e-4 * max(1.0, float(wanted.std())), rtol=0)


def loaded(*folders: Path, options: LoadOptions = CPU) -> list:
    with one_pool():
        return [load(str(folder), options) for folder in folders]


CONFIGS = st.fixed_dictionaries(
    {
        "r": st.integers(1, 9),
        "lora_alpha": st.integers(1, 20),
        "use_rslora": st.booleans(),
        "target_modules": st.lists(st.sampled_from(TARGETS), min_size=1, unique=True),
        "layers_to_transform": st.sampled_from([None, [0], [1]]),
        "rank_pattern": st.sampled_from([{}, {"q_proj": 3}, {"layers.1.*.down_proj": 2, "up_proj": 5}]),
        "alpha_pattern": st.sampled_from([{}, {"v_proj": 7}, {"layers.0.*.q_proj": 11}]),
    }
)


@settings(max_examples=examples(3), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=CONFIGS, other=CONFIGS, seed=st.integers(0, 99))
def test_rows_are_those_of_the_model_that_peft_merges(base, tmp_path, one, other, seed):
    merged = [adapted(tmp_path / str(i), base, seed=seed + i, **config) for i, config in enumerate((one, other))]
    runners = loaded(base, tmp_path / "0", tmp_path / "1")
    assert isinstance(runners[0].forward, FusedForward | CompiledForward)
    play(runners, [runners[0].model, *merged], random.Random(seed))


def test_rows_are_those_without_a_compiled_pass_too(base, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "can_panel", lambda dtype: False)
    merged = [adapted(tmp_path / str(i), base, seed=i, r=3 + 2 * i) for i in range(2)]
    runners = loaded(base, tmp_path / "0", tmp_path / "1")
    assert isinstance(runners[0].forward, FusedForward)
    for seed in range(3):
        play(runners, [runners[0].model, *merged], random.Random(seed))


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "mistral", "gemma2", "phi3", "gpt2", "gpt_neox", "opt", "smollm3"])
def test_adapters_of_any_architecture_are_put_on(kind, tmp_path):
    base = saved(tmp_path / "base", kind)
    merged = [adapted(tmp_path / str(i), base, seed=i) for i in range(2)]
    runners = loaded(base, tmp_path / "0", tmp_path / "1")
    play(runners, [runners[0].model, *merged], random.Random(kind))


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_passes_of_few_shapes_know_their_rows_adapters(kind, tmp_path):
    base = saved(tmp_path / "base", kind)
    merged = [adapted(tmp_path / str(i), base, seed=i) for i in range(2)]
    runners = loaded(base, tmp_path / "0", options=LoadOptions(device="cpu", graphs="shapes"))
    play(runners, [runners[0].model, merged[0]], random.Random(1))
    with one_pool():
        # Another adapter changes the stacked factors of the first.
        runners = [load(str(base), LoadOptions(device="cpu", graphs="shapes"))]
        for index in range(2):
            runners.append(load(str(tmp_path / str(index)), LoadOptions(device="cpu", graphs="shapes")))
            play(runners, [runners[0].model, *merged[: index + 1]], random.Random(2))


def test_large_prepacked_layers_take_adapters_too(tmp_path):
    base = saved(tmp_path / "base", hidden_size=512, intermediate_size=768, num_hidden_layers=1)
    merged = adapted(tmp_path / "tuned", base)
    runners = loaded(base, tmp_path / "tuned")
    play([runners[1].served_by, runners[1]], [loaded(base)[0].model, merged], random.Random(3))


def test_the_base_is_read_once_whatever_stands_on_it(base, tuned, tmp_path, monkeypatch):
    adapted(tmp_path / "other", base, seed=2)
    read = []

    def reading(*args) -> HfRunner:
        read.append(load_whole(*args))
        return read[-1]

    monkeypatch.setattr("cospec.runner.hf.assemble.load_whole", reading)
    with shared_runners():
        ensemble = Ensemble([str(tuned), str(base), str(tmp_path / "other")])
        assert len(read) == 1
        assert {getattr(runner, "served_by", runner) for runner in ensemble.runners} == {read[0]}
        # Another ensemble, on the same base.
        Ensemble([str(tmp_path / "other"), Member(model=str(tuned), prompt="w5 {prompt}")])
        assert len(read) == 1
    Ensemble([str(tuned)])
    assert len(read) == 2


def test_members_of_one_base_are_fed_in_one_pass(base, tuned):
    ensemble = Ensemble([str(base), str(tuned)], schedule="plain")
    passes = []
    server, feed = ensemble.runners[0], ensemble.runners[0].feed
    server.feed = lambda batch: (passes.append(len(batch)), feed(batch))[1]
    (result,) = ensemble.generate("w3 w4", GREEDY)
    assert passes == [2] * 12
    assert {name: lane.calls for name, lane in result.counts.lanes.items()} == dict.fromkeys(ensemble.names, 12)


def test_texts_are_those_of_the_merged_models(base, tuned, tmp_path):
    adapted(tmp_path / "merging", base).save_pretrained(tmp_path / "merged")
    shutil.copy(base / "tokenizer.json", tmp_path / "merged")
    shutil.copy(base / "tokenizer_config.json", tmp_path / "merged")
    prompts = ["w3 w4 w5", "w9", "w7 w8"]
    for schedule in ("plain", "alternate", "auto", "mixture"):
        params = SamplingParams(max_tokens=16, seed=3, temperature=0 if schedule == "auto" else 1)
        texts = [
            [
                result.token_ids
                for result in Ensemble([str(base), str(other)], schedule=schedule).generate(prompts, params)
            ]
            for other in (tuned, tmp_path / "merged")
        ]
        assert texts[0] == texts[1]


def test_an_adapter_drafts_for_its_base(base, tuned):
    plain_text = Ensemble([str(base)], schedule="plain").generate("w3 w4", GREEDY)[0].token_ids
    drafted = Ensemble([str(base)], schedule="fixed", gamma=3, proposer=str(tuned))
    assert drafted.generate("w3 w4", GREEDY)[0].token_ids == plain_text


# What is refused.


def test_a_missing_base_is_named_and_may_be_given(base, damaged):
    rewrite(damaged, base_model_name_or_path="./nowhere")
    with pytest.raises(ModelNotFound, match=r"adapter of '\./nowhere', which is not to be had: .* as `base`"):
        load(str(damaged), CPU)
    assert load(str(damaged), LoadOptions(device="cpu", base=str(base))).served_by.model is not None
    rewrite(damaged, base_model_name_or_path=None)
    with pytest.raises(ModelNotFound, match="names no base_model_name_or_path; give the model"):
        load(str(damaged), CPU)


def test_a_base_is_found_beside_its_adapter(base, damaged, monkeypatch):
    shutil.copytree(base, damaged.parent / "beside")
    rewrite(damaged, base_model_name_or_path="../beside")
    monkeypatch.chdir(base)
    assert load(str(damaged), CPU).vocab_size == VOCAB


def test_an_ensemble_file_names_a_base_beside_itself(base, damaged):
    shutil.copytree(base, damaged.parent / "beside")
    rewrite(damaged, base_model_name_or_path="nowhere/at-all")
    path = damaged.parent / "mine.yaml"
    path.write_text("members: [./beside, {model: ./damaged, base: ./beside}]\ndevice: cpu\n")
    ensemble = Ensemble.load(path)
    assert ensemble.runners[1].served_by is ensemble.runners[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: rename(folder, "q_proj", "query"), r"of another model than .*self_attn.query'.* no linear"),
        (lambda folder: rewrite(folder, peft_type="IA3"), "of the type 'IA3' .*LORA alone .*merge_and_unload"),
        (lambda folder: rewrite(folder, use_dora=True), r"magnitude of weights too \(DoRA\) \(use_dora\)"),
        (lambda folder: rewrite(folder, modules_to_save=["lm_head"]), "replaces whole modules"),
        (lambda folder: rewrite(folder, bias="all"), "changes the base's biases"),
        (lambda folder: rewrite(folder, init_lora_weights="pissa_niter_4"), "begun from its base's own weights"),
        (lambda folder: rewrite(folder, lora_alpha="8"), "lora_alpha is '8'"),
        (lambda folder: rename(folder, "0.mlp.up_proj.lora_B", "0.mlp.up_proj.lora_X"), "no pair of factors"),
        (lambda folder: rename(folder, "up_proj.lora_B", "x_proj.lora_B"), "which is no pair"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json.*not JSON"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 50), "no safetensors file"),
        (lambda folder: save_file({}, folder / "adapter_model.safetensors"), "adapter without weights: they are empty"),
        (lambda folder: spoil(folder, float("nan")), "are NaN or infinite"),
    ],
)  # fmt: skip
def test_what_is_no_adapter_that_fits_is_refused_by_name(damaged, change, message):
    change(damaged)
    with pytest.raises(UnsupportedModel, match=message) as raised:
        load(str(damaged), CPU)
    assert "damaged" in str(raised.value)


def spoil(folder: Path, value: float) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] = value
    save_file(tensors, path)


def test_an_adapter_of_another_size_is_refused_with_both_shapes(damaged, tmp_path):
    wide = saved(tmp_path / "wide", num_entries=VOCAB, hidden_size=64)
    with pytest.raises(
        UnsupportedModel, match=r"of another model than .*wide.*'model.layers.0.mlp.down_proj' is \[32, 48\]"
    ):
        load(str(damaged), LoadOptions(device="cpu", base=str(wide)))


def test_an_adapter_that_does_not_fit_leaves_the_base_as_it_was(base, tuned, damaged):
    rename(damaged, "q_proj", "query")
    with one_pool():
        runner = load(str(base), CPU)
        with pytest.raises(UnsupportedModel):
            load(str(damaged), CPU)
        assert runner.adapters == []
        assert load(str(tuned), CPU).served_by is runner


def test_an_adapter_without_weights_is_refused(damaged):
    (damaged / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"adapter without weights: it has no adapter_model\.safetensors"):
        load(str(damaged), CPU)
    torch.save({}, damaged / "adapter_model.bin")
    with pytest.raises(ModelNotFound, match=r"only as pickle \(adapter_model.bin\)"):
        load(str(damaged), CPU)


def test_an_adapter_of_an_adapter_is_refused(tuned, damaged):
    with pytest.raises(UnsupportedModel, match=r"is itself an adapter .* none is put on another"):
        load(str(damaged), LoadOptions(device="cpu", base=str(tuned)))


def test_a_base_is_for_adapters_alone(base):
    with pytest.raises(UnsupportedModel, match="has the base 'x', and is no adapter"):
        load(str(base), LoadOptions(device="cpu", base="x"))


def test_weights_as_pickle_are_read_where_that_is_allowed(damaged):
    path = damaged / "adapter_model.safetensors"
    row = first_row(load(str(damaged), CPU))
    torch.save(load_file(path), damaged / "adapter_model.bin")
    path.unlink()
    assert torch.equal(first_row(load(str(damaged), LoadOptions(device="cpu", allow_pickle=True))), row)


def first_row(runner: Runner) -> torch.Tensor:
    return runner.feed([Feed(runner.open(), [1, 2, 3], 1)])[0]


def test_a_base_and_two_adapters_take_little_more_memory_than_the_base(tmp_path):
    # Wide beside the adapters' ranks, as real models are; some layers prepacked, and some joined.
    base = saved(tmp_path / "base", num_entries=VOCAB, hidden_size=512, intermediate_size=768, num_hidden_layers=2)
    for index in range(2):
        adapted(tmp_path / str(index), base, r=8, seed=index)
    alone, together = Ensemble([str(base)]), Ensemble([str(base), str(tmp_path / "0"), str(tmp_path / "1")])
    ledger = Ledger(settings={})
    one, *_ = memory(alone, ledger)
    rows = memory(together, ledger)
    assert rows[0].weights == one.weights
    # The factors of both stand side by side, and count with the first.
    assert rows[1].weights > 0
    assert sum(row.weights for row in rows) <= 1.15 * one.weights
    held = {key: size for runner in together.runners for key, size in storages(runner).items()}
    assert sum(held.values()) == sum(row.weights for row in rows)


def test_a_shared_base_is_counted_once_before_it_is_loaded(base, tuned, tmp_path, monkeypatch):
    adapted(tmp_path / "other", base, seed=2)
    size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    monkeypatch.setattr("cospec.runner.memory.free_bytes", lambda device: 2 * size)
    Ensemble([str(base), str(tuned), str(tmp_path / "other")])
    monkeypatch.setattr("cospec.runner.memory.free_bytes", lambda device: size // 2)
    with pytest.raises(DoesNotFit, match="these models need"):
        Ensemble([str(tuned)])


def test_a_request_to_the_server_sets_how_strongly_a_model_is_realigned(base, tuned):
    """Decoding-time realignment: 0 is the base, 1 the tuned model."""
    ensemble = Ensemble([str(base), str(tuned)], combine=Arithmetic([0.5, 0.5]), schedule="plain")
    body = {"prompt": "w3 w4 w5", "max_tokens": 12, "temperature": 0}
    with TestClient(create_app(ensemble, ServerSettings(model="m"))) as client:
        texts = [
            client.post("/v1/completions", json=body | {"weights": [1 - strength, strength]}).json()["choices"][0][
                "text"
            ]
            for strength in (0, 1, 1.5)
        ]
    params = SamplingParams(temperature=0, max_tokens=12)
    assert texts[:2] == [ensemble.alone(name).generate("w3 w4 w5", params)[0].text for name in ensemble.names]
    assert len({*texts}) == 3

"""Parts of a model: its first layers, and a drafter's most frequent tokens, of the whole model's own weights."""

import json
import math
import random
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from cospec import Ensemble, InvalidEnsemble, Member, SamplingParams, UnknownName, UnsupportedModel
from cospec.runner import Feed, LoadOptions
from cospec.runner.hf import load
from cospec.runner.hf.compiled.forward import CompiledForward
from cospec.runner.hf.fused import FusedForward
from cospec.runner.pool import one_pool
from cospec.schedule.beliefs import Pair

from .adapters import adapted
from .models import VOCAB, saved
from .test_adapters import plain, play

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


def options(**parts: object) -> LoadOptions:
    return LoadOptions(device="cpu", **parts)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A model of three layers."""
    return saved(tmp_path_factory.mktemp("whole"), num_entries=VOCAB, num_hidden_layers=3)


def cut_by_hand(folder: Path, target: Path, layers: int):
    """The first layers as a model of its own, made by what transformers does with a shorter configuration."""
    shutil.copytree(folder, target)
    config = json.loads((folder / "config.json").read_text())
    lists = {key: value[:layers] for key, value in config.items() if isinstance(value, list) and "layer" in key}
    (target / "config.json").write_text(json.dumps({**config, **lists, depth_key(config): layers}))
    return AutoModelForCausalLM.from_pretrained(target).eval()


def depth_key(config: dict) -> str:
    return next(key for key in ("num_hidden_layers", "n_layer") if key in config)


@pytest.mark.parametrize("kind", ["llama", "qwen2 sliding", "qwen3", "gemma2", "gpt2", "opt", "smollm3", "mixtral"])
def test_the_first_layers_are_a_model(kind, tmp_path):
    folder = saved(tmp_path / "whole", kind)
    with one_pool():
        # With the whole model beside it, and the same number of layers as none at all.
        runners = [
            load(str(folder), options()),
            load(str(folder), options(layers=1)),
            load(str(folder), options(layers=2)),
        ]
    assert runners[2] is runners[0]
    play(runners[1:2], [cut_by_hand(folder, tmp_path / "cut", 1)], random.Random(kind))


def test_an_adapter_is_cut_with_its_base(whole, tmp_path):
    adapted(tmp_path / "tuned", whole).save_pretrained(tmp_path / "merged")
    runner = load(str(tmp_path / "tuned"), options(layers=2))
    play(
        [runner.served_by, runner],
        [runner.served_by.model, cut_by_hand(tmp_path / "merged", tmp_path / "cut", 2)],
        random.Random(4),
    )


def test_layers_beyond_the_model_s_are_refused(whole):
    with pytest.raises(InvalidEnsemble, match="has 3 layers, and layers is 4; give 1 to 3"):
        load(str(whole), options(layers=4))
    with pytest.raises(InvalidEnsemble, match="layers must be a whole number of at least 1, got 0"):
        options(layers=0)


def test_parts_share_the_weights_of_the_whole(tmp_path):
    # Large enough that some layers are prepacked, and others joined.
    folder = saved(tmp_path / "whole", hidden_size=512, intermediate_size=768, num_hidden_layers=2)
    with one_pool():
        runner, part = load(str(folder), options()), load(str(folder), options(layers=1))
    assert isinstance(part.forward, FusedForward | CompiledForward)
    own = {id(module) for module in part.model.modules() if not list(module.children())}
    assert own <= {id(module) for module in runner.model.modules()}


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_cut_vocabulary_gives_the_rows_of_the_whole_one_on_its_tokens(kind, tmp_path):
    folder = saved(tmp_path / "whole", kind, num_entries=VOCAB)
    with one_pool():
        runner, cut = load(str(folder), options()), load(str(folder), options(vocabulary=40))
    assert cut.vocabulary == tuple(range(40))
    assert cut.model.get_output_embeddings().out_features == 40
    rows = cut.feed([Feed(cut.open(), [5, 6, 7], 3)])[0]
    assert rows.shape == (3, VOCAB)
    torch.testing.assert_close(rows[:, :40], plain(runner.model, [5, 6, 7], 3)[:, :40], atol=1e-4, rtol=0)
    assert bool((rows[:, 40:] == -math.inf).all())


def test_prepacked_heads_are_cut_too(tmp_path):
    folder = saved(tmp_path / "whole", hidden_size=512, intermediate_size=64, num_hidden_layers=1, vocab_size=1024)
    runner, cut = load(str(folder), options()), load(str(folder), options(vocabulary=600))
    rows = [each.feed([Feed(each.open(), [5, 6, 7], 3)])[0][:, :600] for each in (runner, cut)]
    torch.testing.assert_close(rows[1], rows[0], atol=1e-4, rtol=0)


def test_the_ends_are_among_the_most_frequent_tokens(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "ends")
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": [1, 99]}))
    assert load(str(folder), options(vocabulary=10)).vocabulary == (*range(9), 99)
    with pytest.raises(InvalidEnsemble, match=f"has {VOCAB} tokens, and vocabulary is 4000; give 1 to {VOCAB}"):
        load(str(whole), options(vocabulary=4000))


def test_a_member_keeps_all_of_its_tokens(whole):
    with pytest.raises(InvalidEnsemble, match=r"member 'small' is cut to 40 tokens .* leave `vocabulary` out"):
        Ensemble([Member(model=str(whole), name="small", options=options(vocabulary=40))])


def test_a_drafter_s_folder_says_what_it_is(whole, tmp_path):
    folder = tmp_path / "drafter"
    adapted(folder, whole, target_modules=["q_proj", "up_proj"], layers_to_transform=[0, 1])
    (folder / "cospec.json").write_text(json.dumps({"layers": 2, "vocabulary": [1, 9, 3, 5, 60]}))
    ensemble = Ensemble([str(whole)], schedule="fixed", gamma=3, proposer=str(folder))
    drafter = ensemble.runners[1]
    assert drafter.vocabulary == (1, 3, 5, 9, 60)
    assert drafter.served_by.model.config.num_hidden_layers == 2
    layers, of_whole = (runner.model.model.layers for runner in (drafter.served_by, ensemble.runners[0]))
    assert layers[1].mlp.down_proj is of_whole[1].mlp.down_proj
    plain_text = Ensemble([str(whole)], schedule="plain").generate("w3 w4", GREEDY)[0].token_ids
    assert ensemble.generate("w3 w4", GREEDY)[0].token_ids == plain_text
    # What an entry says holds.
    given = load(str(folder), options(layers=1, vocabulary=7))
    assert given.vocabulary == tuple(range(7))
    assert given.served_by.model.config.num_hidden_layers == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"layers": "2"}', r"layers of its cospec\.json is '2'"),
        ('{"layers": 9}', "has 3 layers, and layers is 9"),
        ('{"vocabulary": [1, 1]}', "a list of token ids, each once"),
        ('{"vocabulary": 5}', "a list of token ids, each once"),
        ('{"acceptance": 1.5}', r"acceptance of its cospec\.json is 1\.5; it must be a number from 0 to 1"),
        ('{"acceptance": true}', "a number from 0 to 1"),
        ('{"vocabulary": [1, 4000]}', "its vocabulary lists the id 4000"),
        ("[]", "not an object"),
        ("{", "not JSON"),
    ],
)
def test_a_broken_description_of_a_drafter_is_refused(whole, tmp_path, content, message):
    folder = shutil.copytree(whole, tmp_path / "drafter")
    (folder / "cospec.json").write_text(content)
    with pytest.raises((UnsupportedModel, InvalidEnsemble), match=message):
        load(str(folder), options())


@pytest.mark.parametrize("told", [0.0, 0.03, 1])
def test_auto_begins_with_what_a_drafters_folder_says_of_its_acceptance(whole, tmp_path, told):
    folder = shutil.copytree(whole, tmp_path / "drafter")
    (folder / "cospec.json").write_text(json.dumps({"layers": 2, "acceptance": told}))
    ensemble = Ensemble([str(whole)], schedule="auto", proposer=str(folder), keep_measurements=False)
    expected = ensemble.planner_for(SamplingParams()).beliefs.acceptances
    assert {pair: own.value for pair, own in expected.items()} == {Pair(1, None): told, Pair(1, 0): told}
    # Of another part of it the folder says nothing.
    cut = Member(model=str(folder), options=options(layers=1))
    other = Ensemble([str(whole)], schedule="auto", proposer=cut, keep_measurements=False)
    assert not other.planner_for(SamplingParams()).beliefs.acceptances


def test_an_ensemble_file_takes_parts(whole, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"members: [{whole}, {{model: {whole}, name: first, layers: 1}}]\ncombine: {{type: contrastive, mu: 0.5}}\n"
        f"proposer: {{model: {whole}, name: small, layers: 2, vocabulary: 64}}\ndevice: cpu\n"
    )
    ensemble = Ensemble.load(path)
    layers = [runner.model.config.num_hidden_layers for runner in ensemble.runners]
    assert layers == [3, 1, 2]
    assert [runner.vocabulary for runner in ensemble.runners] == [None, None, tuple(range(64))]
    assert ensemble.generate("w3 w4", GREEDY)[0].finish_reason == "length"
    path.write_text(f"members: [{whole}]\nlayers: 2\n")
    with pytest.raises(UnknownName, match=r"unknown key of .* 'layers'"):
        Ensemble.load(path)

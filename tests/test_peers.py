"""What transformers decodes beside cospec in a benchmark: the same text of the same length, on stock and packed
weights."""

import json

import pytest
import torch

from cospec import Ensemble, SamplingParams
from cospec.runner.hf import HfRunner, is_packed, packing, prepacked, unpacked
from cospec.study.peers import LOOKUP_TOKENS, PACKED, Models, bench_methods, generated, generating

from .models import saved

PROMPT = [5, 9, 2, 7]
GREEDY = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)


@pytest.fixture
def everything_is_large(monkeypatch):
    if not prepacked.can_prepack(torch.float32):
        pytest.skip("this build of torch packs no weights")
    monkeypatch.setattr(packing, "FEWEST_WEIGHTS", 1)


def decoded(ensemble, params=GREEDY):
    (result,) = ensemble.generate([PROMPT], params)
    return list(result.token_ids)


def ended_early(folder, **changes):
    """An ensemble of a model whose greedy text has its end token among the first, and which asks transformers for
    penalties that cospec does not apply by itself; and that text."""
    saved(folder, "llama", num_entries=128, **changes)
    text = decoded(Ensemble([str(folder)], dtype="float32"))
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text())
        settings["eos_token_id"] = text[2]
        if name == "generation_config.json":
            settings |= {"repetition_penalty": 3.0, "no_repeat_ngram_size": 2}
        (folder / name).write_text(json.dumps(settings))
    drafter = saved(folder / "drafter", "llama", num_entries=128, seed=1)
    ensemble = Ensemble([str(folder)], dtype="float32", proposer=[str(drafter)])
    assert len(decoded(ensemble, SamplingParams(temperature=0, max_tokens=16))) <= 3
    assert decoded(ensemble) == text
    return ensemble, text


@pytest.mark.parametrize("tied", [True, False])
def test_peers_decode_the_text_that_cospec_does_past_end_tokens(tmp_path, everything_is_large, tied):
    ensemble, text = ended_early(tmp_path, tie_word_embeddings=tied)
    for lanes in ([0], [0, 1]):
        peers = generating("hf", ensemble, GREEDY, lanes)
        assert [peer.name for peer in peers] == ["hf", f"hf{PACKED}"]
        for peer in peers:
            with peer.held():
                assert peer.decode([PROMPT]).tokens == len(text) == 16
        for is_stock in (True, False):
            models = Models([ensemble.runners[lane].model for lane in lanes], is_stock=is_stock)
            with models.held():
                assert generated(ensemble, 0, GREEDY, models)(PROMPT) == text


def test_a_peer_on_stock_weights_has_layers_as_transformers_makes_them(tmp_path, everything_is_large):
    ensemble, _ = ended_early(tmp_path, tie_word_embeddings=True, attention_bias=True)
    packed = ensemble.runners[0].model
    stock = unpacked(packed)
    assert is_packed(packed)
    assert not is_packed(stock)
    fresh = type(stock).from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    assert {name: tuple(value.shape) for name, value in stock.state_dict().items()} == {
        name: tuple(value.shape) for name, value in fresh.items()
    }
    assert all(torch.equal(value, fresh[name]) for name, value in stock.state_dict().items())
    # The embedding and the head that is tied to it are one weight again, and what was not packed is the packed model's.
    assert stock.get_input_embeddings().weight.data_ptr() == stock.lm_head.weight.data_ptr()
    assert stock.model.norm.weight.data_ptr() == packed.model.norm.weight.data_ptr()


def test_stock_weights_are_held_only_while_a_peer_runs(tmp_path, everything_is_large):
    ensemble, _ = ended_early(tmp_path)
    models = Models([ensemble.runners[0].model], is_stock=True)
    with models.held():
        assert not any(map(is_packed, models.ready))
    assert models.ready == []


def test_where_nothing_is_packed_a_peer_has_one_line(tmp_path):
    ensemble = Ensemble([str(saved(tmp_path, "gpt2", num_entries=128))], dtype="float32")
    assert isinstance(ensemble.runners[0], HfRunner)
    available, _ = bench_methods(ensemble, GREEDY, [])
    assert [method.name for method in available if method.name.startswith("hf:")] == [f"hf:{tmp_path.name}"]


def test_transformers_looks_drafts_up_where_cospec_does(tmp_path):
    folder = str(saved(tmp_path, "llama", num_entries=128))
    ensemble = Ensemble([folder], dtype="float32", proposer=["lookup"])
    available, _ = bench_methods(ensemble, GREEDY, [])
    (peer,) = [method for method in available if method.name == "hf-lookup"]
    copied = [5, 9, 2, 7] * 6
    with peer.held():
        assert peer.decode([copied]).tokens == GREEDY.max_tokens
    models = Models([ensemble.runners[0].model], is_stock=True)
    looked_up = generated(ensemble, 0, GREEDY, models, prompt_lookup_num_tokens=LOOKUP_TOKENS)(copied)
    assert looked_up == list(ensemble.generate([copied], GREEDY)[0].token_ids)
    assert "hf-lookup" in bench_methods(Ensemble([folder] * 2, dtype="float32", proposer=["lookup"]), GREEDY, [])[1]
    assert "hf-lookup" not in bench_methods(Ensemble([folder], dtype="float32"), GREEDY, [])[1]

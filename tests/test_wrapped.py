"""The language models within models of text and images, and hybrids whose layers are all attention."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from cospec import Ensemble, SamplingParams, UnsupportedModel
from cospec.runner import Feed, LoadOptions
from cospec.runner.hf import load, unpacked, wrapped
from cospec.runner.hf.compiled.forward import CompiledForward
from cospec.runner.hf.fused import FusedForward

from .models import VOCAB, saved, tiny, tokenizer

CPU = LoadOptions(device="cpu", dtype="float32")
IDS = [5, 7, 11, 13, 17, 19, 23]
_TEXT = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": None,
}  # fmt: skip
_ROTATION = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
_SEES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
_QWEN = {"image_token_id": 120, "video_token_id": 121, "vision_start_token_id": 122, "vision_end_token_id": 123}
# model type -> text configuration, vision configuration, and the rest.
WRAPPERS = {
    "mistral3": (
        {"model_type": "mistral", "head_dim": 8, "sliding_window": None},
        {"model_type": "pixtral", **_SEES, "head_dim": 8, "image_size": 28, "patch_size": 14},
        {"image_token_index": 120},
    ),
    "qwen2_vl": (
        {"rope_parameters": _ROTATION},
        {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2},
        _QWEN,
    ),
    "qwen2_5_vl": (
        {"rope_parameters": _ROTATION},
        {"depth": 1, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "intermediate_size": 48},
        _QWEN,
    ),
    "qwen3_vl": (
        {"head_dim": 8, "rope_parameters": _ROTATION},
        {
            "depth": 1, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "intermediate_size": 48,
            "deepstack_visual_indexes": [0],
        },
        _QWEN,
    ),
    "smolvlm": ({"model_type": "llama"}, {**_SEES, "image_size": 28, "patch_size": 14}, {"image_token_id": 120}),
    "idefics3": ({"model_type": "llama"}, {**_SEES, "image_size": 28, "patch_size": 14}, {"image_token_id": 120}),
    "gemma3": (
        {"head_dim": 8, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
        {**_SEES, "image_size": 28, "patch_size": 14},
        {"mm_tokens_per_image": 4, "image_token_index": 120},
    ),
}  # fmt: skip


def wrapper(folder, kind, **changes):
    """The folder of a random wrapper, and that wrapper itself."""
    text, vision, others = WRAPPERS[kind]
    config = AutoConfig.for_model(kind, text_config={**_TEXT, **text, **changes}, vision_config=vision, **others)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    tokenizer(VOCAB).save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", WRAPPERS)
def test_the_text_part_gives_the_wrappers_logits(tmp_path, kind):
    whole = wrapper(tmp_path, kind)
    runner = load(str(tmp_path), CPU)
    # Another sequence beside it, and a rollback: positions are those of each text.
    slots = [runner.open(), runner.open()]
    runner.feed([Feed(slots[0], IDS[:3], 1), Feed(slots[1], [9], 1)])
    runner.feed([Feed(slots[0], [2, 2], 1), Feed(slots[1], [9, 9, 9], 1)])
    runner.trim(slots[0], 3)
    rows = runner.feed([Feed(slots[0], IDS[3:], 4), Feed(slots[1], [4], 1)])[0]
    wanted = whole(input_ids=torch.tensor([IDS])).logits[0, 3:]
    assert torch.allclose(rows, wanted, atol=1e-4)
    # What reads images is not kept.
    used = sum(parameter.numel() for parameter in unpacked(runner.model).parameters())
    seeing = [part for name, part in whole.model.named_children() if name not in ("language_model", "text_model")]
    assert used == sum(p.numel() for p in whole.parameters()) - sum(
        p.numel() for part in seeing for p in part.parameters()
    )
    assert isinstance(runner.forward, FusedForward | CompiledForward) == (kind in ("mistral3", "smolvlm", "idefics3"))


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "smolvlm"])
def test_greedy_text_is_the_wrappers(tmp_path, kind):
    whole = wrapper(tmp_path, kind)
    answer = whole.generate(torch.tensor([IDS]), max_new_tokens=20, do_sample=False)[0, len(IDS) :].tolist()
    for plan in ("plain", "fixed"):
        (result,) = Ensemble([str(tmp_path)], schedule=plan, proposer="lookup" if plan == "fixed" else None).generate(
            IDS, SamplingParams(temperature=0, max_tokens=20)
        )
        assert list(result.token_ids) == answer


def test_a_wrapper_of_a_hybrid_is_decoded(tmp_path):
    config = AutoConfig.for_model(
        "lfm2_vl",
        text_config={"model_type": "lfm2", **_TEXT, "layer_types": ["conv", "full_attention"]},
        vision_config={"model_type": "siglip2_vision_model", **_SEES, "num_patches": 4, "patch_size": 14},
    )
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    assert load(str(tmp_path), CPU).model.config.model_type == "lfm2"


def test_what_is_no_language_model_is_refused(tmp_path):
    AutoConfig.for_model("siglip_vision_model", **_SEES).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="is no causal language model"):
        load(str(tmp_path), CPU)


@pytest.mark.parametrize("positions", ["rope", None])
@pytest.mark.parametrize("num_experts", [0, 4])
def test_a_hybrid_whose_layers_are_all_attention_is_decoded(tmp_path, positions, num_experts):
    changes = {"position_embedding_type": positions, "num_local_experts": num_experts}
    saved(tmp_path, "granitemoehybrid", num_entries=VOCAB, **changes)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    answer = whole.generate(torch.tensor([IDS]), max_new_tokens=20, do_sample=False)[0, len(IDS) :].tolist()
    (result,) = Ensemble([str(tmp_path)], device="cpu", proposer="lookup", schedule="fixed").generate(
        IDS, SamplingParams(temperature=0, max_tokens=20)
    )
    assert list(result.token_ids) == answer


def test_a_part_that_gives_other_logits_is_not_taken(tmp_path, monkeypatch):
    whole = wrapper(tmp_path, "smolvlm")
    monkeypatch.setattr(wrapped, "_causal", lambda model: tiny("llama", seed=5))
    rows = load(str(tmp_path), CPU)
    wanted = whole(input_ids=torch.tensor([IDS])).logits[0]
    assert torch.allclose(rows.feed([Feed(rows.open(), IDS, len(IDS))])[0], wanted, atol=1e-4)

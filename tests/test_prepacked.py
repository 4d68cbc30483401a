"""Prepacked weights give what a linear layer gives."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from cospec.runner.hf import LoadOptions, load, prepacked
from cospec.runner.hf.prepacked import PrepackedLinear, prepack

pytestmark = pytest.mark.skipif(not prepacked.can_prepack(torch.float32), reason="this build of torch packs no weights")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.Sequential(nn.Linear(96, 48, bias=False)))


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(prepacked, "FEWEST_WEIGHTS", 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64,), (1, 64), (1, 1, 64), (3, 7, 64)])
@torch.inference_mode()
def test_a_prepacked_model_gives_the_same(model, everything_is_large, dtype, shape):
    if not prepacked.can_prepack(dtype):
        pytest.skip(f"this CPU does not multiply in {dtype}")
    model.to(dtype)
    x = torch.randn(shape).to(dtype)
    expected = copy.deepcopy(model)(x)
    assert prepack(model) == 2
    assert torch.allclose(model(x), expected, atol=prepacked.TOLERANCE[dtype])


def test_small_layers_are_left_alone(model):
    assert prepack(model) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_types_are_left_alone(model, everything_is_large, dtype):
    assert prepack(model.to(dtype)) == 0
    assert not any(isinstance(module, PrepackedLinear) for module in model.modules())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not tell what is mapped")
def test_the_file_that_weights_were_read_from_is_let_go(tmp_path):
    """Its embedding stays as it was read, which alone would hold the whole file in memory."""
    config = LlamaConfig(vocab_size=2048, hidden_size=256, intermediate_size=64, num_hidden_layers=1)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    runner = load(str(tmp_path), LoadOptions(dtype="float32", device="cpu"))
    assert any(isinstance(layer, PrepackedLinear) for layer in runner.model.modules())
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()

"""Packed weights give what a linear layer gives."""

import copy

import pytest
import torch
from torch import nn

from cospec.runner.hf import packed
from cospec.runner.hf.packed import PackedLinear, pack

pytestmark = pytest.mark.skipif(not packed._can_pack(), reason="this build of torch packs no weights")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.Sequential(nn.Linear(96, 48, bias=False)))


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(packed, "FEWEST_WEIGHTS", 1)


@pytest.mark.parametrize("shape", [(64,), (1, 64), (1, 1, 64), (3, 7, 64)])
@torch.inference_mode()
def test_a_packed_model_gives_the_same(model, everything_is_large, shape):
    x = torch.randn(shape)
    expected = copy.deepcopy(model)(x)
    assert pack(model) == 2
    assert torch.allclose(model(x), expected, atol=1e-5)


def test_small_layers_are_left_alone(model):
    assert pack(model) == 0


def test_other_types_than_float32_are_left_alone(model, everything_is_large):
    assert pack(model.to(torch.bfloat16)) == 0
    assert not any(isinstance(module, PackedLinear) for module in model.modules())

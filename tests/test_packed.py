"""Packed weights give what a linear layer gives."""

import copy

import pytest
import torch
from torch import nn

from cospec.runner.hf import packed
from cospec.runner.hf.packed import PackedLinear, pack

pytestmark = pytest.mark.skipif(not packed.can_pack(torch.float32), reason="this build of torch packs no weights")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.Sequential(nn.Linear(96, 48, bias=False)))


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(packed, "FEWEST_WEIGHTS", 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64,), (1, 64), (1, 1, 64), (3, 7, 64)])
@torch.inference_mode()
def test_a_packed_model_gives_the_same(model, everything_is_large, dtype, shape):
    if not packed.can_pack(dtype):
        pytest.skip(f"this CPU does not multiply in {dtype}")
    model.to(dtype)
    x = torch.randn(shape).to(dtype)
    expected = copy.deepcopy(model)(x)
    assert pack(model) == 2
    assert torch.allclose(model(x), expected, atol=packed.TOLERANCE[dtype])


def test_small_layers_are_left_alone(model):
    assert pack(model) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_types_are_left_alone(model, everything_is_large, dtype):
    assert pack(model.to(dtype)) == 0
    assert not any(isinstance(module, PackedLinear) for module in model.modules())

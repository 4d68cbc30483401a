"""Weights prepacked for the CPU's matrix kernels: feeding several tokens then takes little longer than feeding one.

A row-major weight is packed anew by every product of more than one token, which takes longer than the arithmetic.
oneDNN can keep it packed; torch exposes that to its compiler, and here it serves models that are not compiled.
"""

from functools import cache

import torch
from torch import Tensor, nn

# In float32, a smaller layer's fixed time a call outweighs what packing saves. In bfloat16 `fused` joins small layers
# first, and packs what it joined.
FEWEST_WEIGHTS = 2**18
# How far the roundings of the two kernels may be apart, for sums of magnitude 1.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


class PrepackedLinear(nn.Module):
    """A linear layer of prepacked weights, for inference on a CPU. weight: [out, in]. bias: [out]."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        self._bias = None if bias is None else bias.detach()

    def tensors(self) -> list[Tensor]:
        """What it holds."""
        return [self._weight, *([] if self._bias is None else [self._bias])]

    @property
    def weight(self) -> Tensor:
        """A copy of the weight, row-major, [out, in]."""
        dense: Tensor = self._weight.to_dense()
        return dense

    @property
    def bias(self) -> Tensor | None:
        return self._bias

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return result


def prepack(model: nn.Module) -> int:
    """Replace the model's large linear layers on a CPU by prepacked ones; how many were replaced.

    That is done in float32, and in bfloat16 where the CPU multiplies in it. A weight that is shared, as a head's with
    the embedding, is packed beside the original; any other original is freed.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and _pays_off(child)
    ]
    for parent, name, linear in found:
        setattr(parent, name, PrepackedLinear(linear.weight, linear.bias))
    return len(found)


def _pays_off(linear: nn.Linear) -> bool:
    weight = linear.weight
    return weight.device.type == "cpu" and weight.numel() >= FEWEST_WEIGHTS and can_prepack(weight.dtype)


@cache
def is_native(dtype: torch.dtype) -> bool:
    """Whether the CPU multiplies in this type, rather than convert to another for every product."""
    if dtype not in (torch.bfloat16, torch.float16):
        return True
    try:
        ops = torch.ops.mkldnn
        return bool(ops._is_mkldnn_bf16_supported() if dtype == torch.bfloat16 else ops._is_mkldnn_fp16_supported())
    except (AttributeError, RuntimeError):
        return False


@cache
def can_prepack(dtype: torch.dtype) -> bool:
    """Whether this build of torch has the two operations for this type, and they compute what a linear layer does."""
    if dtype not in TOLERANCE or not is_native(dtype):
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    linear = nn.Linear(16, 8, dtype=dtype)
    x = torch.ones(1, 3, 16, dtype=dtype)
    with torch.inference_mode():
        try:
            return torch.allclose(PrepackedLinear(linear.weight, linear.bias)(x), linear(x), atol=TOLERANCE[dtype])
        except (AttributeError, RuntimeError, NotImplementedError):
            return False

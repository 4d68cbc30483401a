"""Weights in the layout that the CPU's matrix kernels read: feeding several tokens then costs little more than one.

A row-major weight is packed anew by every call that feeds more than one token, which costs more than the arithmetic.
oneDNN can keep it packed; torch has that for its compiler, and here it serves the models as they are.
"""

from functools import cache

import torch
from torch import Tensor, nn

# Below this a float32 call's fixed cost outweighs what packing saves; in bfloat16 `lean` joins layers first, and packs.
FEWEST_WEIGHTS = 2**18
# How far the two kernels' roundings may be apart, for sums of the size of 1.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


class PackedLinear(nn.Module):
    """A linear layer of packed weights, for inference on a CPU."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        self._bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return result


def pack(model: nn.Module) -> int:
    """Replace the model's large linear layers on a CPU by packed ones; how many it replaced.

    Those in float32, and in bfloat16 where the CPU multiplies in it.

    A weight that is shared, as a head's with the embedding, is packed beside the original; any other is let go.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and _is_worth_it(child)
    ]
    for parent, name, linear in found:
        setattr(parent, name, PackedLinear(linear.weight, linear.bias))
    return len(found)


def _is_worth_it(linear: nn.Linear) -> bool:
    weight = linear.weight
    return weight.device.type == "cpu" and weight.numel() >= FEWEST_WEIGHTS and can_pack(weight.dtype)


@cache
def is_native(dtype: torch.dtype) -> bool:
    """Whether the CPU multiplies in this type, rather than by way of another."""
    if dtype not in (torch.bfloat16, torch.float16):
        return True
    try:
        ops = torch.ops.mkldnn
        return bool(ops._is_mkldnn_bf16_supported() if dtype == torch.bfloat16 else ops._is_mkldnn_fp16_supported())
    except (AttributeError, RuntimeError):
        return False


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of torch has the two operations for this type, and they give what a linear layer gives."""
    if dtype not in TOLERANCE or not is_native(dtype):
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    linear = nn.Linear(16, 8, dtype=dtype)
    x = torch.ones(1, 3, 16, dtype=dtype)
    with torch.inference_mode():
        try:
            return torch.allclose(PackedLinear(linear.weight, linear.bias)(x), linear(x), atol=TOLERANCE[dtype])
        except (AttributeError, RuntimeError, NotImplementedError):
            return False

"""Weights prepacked for the CPU's matrix kernels: feeding several tokens then takes little longer than feeding one.

A row-major weight is packed anew by every product of more than one token, which takes longer than the arithmetic.
oneDNN can keep it packed; torch exposes that to its compiler, and here it serves models that are not compiled.
"""

from functools import cache

import torch
from torch import Tensor, nn

# How far the roundings of the two kernels may be apart, for sums of magnitude 1.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


class PrepackedLinear(nn.Module):
    """A linear layer of prepacked weights, for inference on a CPU. weight: [out, in]. bias: [out]."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._weight = self._laid_out(weight.detach())
        self._bias = None if bias is None else bias.detach()

    @staticmethod
    def _laid_out(weight: Tensor) -> Tensor:
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        return packed

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

    def rows(self, outputs: Tensor) -> Tensor:
        """The weights of these outputs, which there are: ids [...] -> [..., in]."""
        return self.weight[outputs]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return result


class TransposedLinear(PrepackedLinear):
    """Weights as they stand in [in, out], which products of a single token in float32 may read the fastest."""

    @staticmethod
    def _laid_out(weight: Tensor) -> Tensor:
        return weight.t().contiguous()

    @property
    def weight(self) -> Tensor:
        return self._weight.t().contiguous()

    def forward(self, x: Tensor) -> Tensor:
        # `@` is the same product, found in a few more steps.
        out = torch.mm(x, self._weight) if x.dim() == 2 else x @ self._weight
        return out if self._bias is None else out.add_(self._bias)


class JoinedPart(nn.Module):
    """One of the layers that were joined: outputs of the product of all, from `start` on. It computes all of them."""

    def __init__(self, whole: PrepackedLinear, start: int, out_features: int) -> None:
        super().__init__()
        self.whole = whole
        self.in_features, self.out_features = whole.in_features, out_features
        self._rows = slice(start, start + out_features)

    @property
    def weight(self) -> Tensor:
        """A copy, row-major, [out, in]."""
        return self.whole.weight[self._rows]

    @property
    def bias(self) -> Tensor | None:
        return None if self.whole.bias is None else self.whole.bias[self._rows]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.whole(x)[..., self._rows]
        return result


class WideHead(PrepackedLinear):
    """A head in bfloat16 whose outputs come out in float32, to 2**-17 of their size: the product rounded to bfloat16,
    then what that left of it. In bfloat16 alone, every 30th or so of a text's rows has two best logits that are equal.
    """

    def forward(self, x: Tensor) -> Tensor:
        rounded = super().forward(x)
        rest: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, rounded, self._weight, self._bias, "sub")
        return rounded.float().add_(rest)


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


@cache
def can_widen() -> bool:
    """Whether this build of torch has the operation, and what it gives is the product in more than bfloat16."""
    if not can_prepack(torch.bfloat16):
        return False
    weight, x = (torch.linspace(-1, 1, 16 * rows).view(rows, 16).bfloat16() for rows in (8, 3))
    bias = torch.linspace(-1, 1, 8).bfloat16()
    with torch.inference_mode():
        try:
            found = WideHead(weight, bias)(x)
        except (AttributeError, RuntimeError, NotImplementedError):
            return False
    return torch.allclose(found.double(), x.double() @ weight.double().t() + bias.double(), atol=1e-4)

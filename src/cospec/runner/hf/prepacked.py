"""Weights prepacked for the CPU's matrix kernels: feeding several tokens then takes little longer than feeding one.

A row-major weight is packed anew by every product of more than one token, which takes longer than the arithmetic.
oneDNN can keep it packed; torch exposes that to its compiler, and here it serves models that are not compiled.
"""

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .resident import MappedFiles, copy_out_of_files, trim_heap

# In float32, a smaller layer's fixed time a call outweighs what packing saves. Of passes that `fused` runs, layers are
# joined first, in a layout that was measured (see `layouts`).
FEWEST_WEIGHTS = 2**18
# Bytes of freed weights that the C library may keep while a model is packed.
TRIM_EVERY = 2**25
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


def widen_head(model: PreTrainedModel) -> None:
    """Replace the model's head by a `WideHead`, where it is a linear layer in bfloat16 on a CPU that can have one."""
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if type(head) is nn.Linear and head.weight.dtype == torch.bfloat16 and can_widen():
        model.set_output_embeddings(WideHead(head.weight, head.bias))  # type: ignore[no-untyped-call]


def prepack(model: nn.Module, fewest_weights: int | None = None) -> int:
    """Replace the model's linear layers on a CPU by prepacked ones, those of so many weights, by default of
    FEWEST_WEIGHTS; how many were replaced.

    That is done in float32, and in bfloat16 where the CPU multiplies in it. A weight that is shared, as a head's with
    the embedding, is packed beside the original; any other original is freed before the next is packed, so that no more
    than one weight is ever held twice. What is left in a mapped file is copied out of it.
    """
    # The places alone: a list of the layers would hold all originals until the last is packed.
    found = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and _can_be_packed(child, fewest_weights or FEWEST_WEIGHTS)
    ]
    if not found and not is_packed(model):
        return 0
    replaced = Replaced()
    for parent, name in found:
        linear = getattr(parent, name)
        setattr(parent, name, PrepackedLinear(linear.weight, linear.bias))
        replaced.note(linear.weight)
        del linear
        replaced.trim()
    # One tensor that lies in a mapped file keeps all of it mapped.
    copy_out_of_files(model, replaced.files)
    return len(found)


class Replaced:
    """Gives back the memory of weights that were replaced, those in mapped files too."""

    def __init__(self) -> None:
        self.files = MappedFiles()
        self._freed = 0

    def note(self, weight: Tensor) -> None:
        """This weight is needed no longer."""
        self.files.release(weight)
        self._freed += weight.nbytes

    def trim(self) -> None:
        """Give back what was freed, where that is much."""
        if self._freed >= TRIM_EVERY:
            trim_heap()
            self._freed = 0


def shared_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model's modules, with the same tensors."""
    packed = [module for module in model.modules() if isinstance(module, PrepackedLinear)]
    tensors = [*model.parameters(), *model.buffers(), *(tensor for module in packed for tensor in module.tensors())]
    made: PreTrainedModel = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    return made


def unpacked(model: PreTrainedModel) -> PreTrainedModel:
    """The model as it was before it was packed, bit by bit: its linear layers are ordinary ones again, with copies of
    their weights. All that was not packed is shared with the model."""
    made = shared_copy(model)
    embedding = getattr(model.get_input_embeddings(), "weight", None)
    for parent in [*made.modules()]:
        for name, child in [*parent.named_children()]:
            if isinstance(child, PrepackedLinear | JoinedPart) and not isinstance(parent, JoinedPart):
                setattr(parent, name, _ordinary(child, embedding))
    return made


def is_packed(model: nn.Module) -> bool:
    """Whether any of the model's layers were replaced by packed ones."""
    return any(isinstance(module, PrepackedLinear) for module in model.modules())


def _ordinary(packed: PrepackedLinear | JoinedPart, embedding: Tensor | None) -> nn.Linear:
    """embedding: what a tied head stands on, and holds no copy of."""
    weight, bias = packed.weight, packed.bias
    if embedding is not None and embedding.shape == weight.shape and torch.equal(embedding, weight):
        weight = embedding.detach()
    linear = nn.Linear(packed.in_features, packed.out_features, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def _can_be_packed(linear: nn.Linear, fewest_weights: int) -> bool:
    weight = linear.weight
    return weight.device.type == "cpu" and weight.numel() >= fewest_weights and can_prepack(weight.dtype)


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

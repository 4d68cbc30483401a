"""A model's linear layers replaced by packed ones, and back."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .panels import PanelEmbedding, PanelLinear, can_panel
from .prepacked import JoinedPart, PrepackedLinear, TransposedLinear, WideHead, can_prepack, can_widen, is_native
from .resident import MappedFiles, copy_out_of_files, trim

# In float32, a smaller layer's fixed time a call outweighs what packing saves. Of passes that `fused` runs, layers are
# joined first, in a layout that was measured (see `layouts`).
FEWEST_WEIGHTS = 2**18
# Bytes of freed weights that the C library may keep while a model is packed.
TRIM_EVERY = 2**25


def packing(dtype: torch.dtype) -> type[PrepackedLinear] | None:
    """The kind of linear layer that is usually the fastest for a few tokens of this type on a CPU; None where none is
    faster than torch's own."""
    found = kinds(dtype)
    if PanelLinear in found and (dtype == torch.float32 or not is_native(dtype)):
        return PanelLinear
    return PrepackedLinear if PrepackedLinear in found else None


def kinds(dtype: torch.dtype) -> tuple[type[PrepackedLinear], ...]:
    """The kinds that this machine has for this type."""
    prepacked = (PrepackedLinear, TransposedLinear) if can_prepack(dtype) else ()
    return (*prepacked, PanelLinear) if can_panel(dtype) else prepacked


def widen_head(model: PreTrainedModel, kind: type[PrepackedLinear] | None) -> None:
    """Replace the model's head by one whose outputs are in float32, where it is a linear layer of fewer bits on a CPU
    that can have such a one. kind: of the model's other layers."""
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if type(head) is not nn.Linear or head.weight.device.type != "cpu" or head.weight.dtype.itemsize > 2:
        return
    wide: PrepackedLinear | None = None
    if kind is PanelLinear:
        wide = PanelLinear(head.weight, head.bias, is_wide=True)
    elif head.weight.dtype == torch.bfloat16 and can_widen():
        wide = WideHead(head.weight, head.bias)
    if wide is not None:
        model.set_output_embeddings(wide)  # type: ignore[no-untyped-call]
        _look_up(model, head.weight, wide)


def prepack(model: nn.Module, fewest_weights: int | None = None) -> int:
    """Replace the model's linear layers on a CPU by those of `packing`, of so many weights, by default of
    FEWEST_WEIGHTS; how many were replaced.

    Each original is freed before the next is packed, so that no more than one weight is ever held twice. An embedding
    that shares a weight with a layer that is kept in panels looks rows up in them; any other is held beside. What is
    left in a mapped file is copied out of it.
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
        kind = packing(linear.weight.dtype)
        assert kind is not None, "it can be packed"
        packed = kind(linear.weight, linear.bias)
        setattr(parent, name, packed)
        _look_up(model, linear.weight, packed)
        replaced.note(linear.weight)
        del linear
        replaced.trim()
    # One tensor that lies in a mapped file keeps all of it mapped.
    copy_out_of_files(model, replaced.files)
    return len(found)


def _look_up(model: nn.Module, weight: Tensor, packed: PrepackedLinear) -> None:
    """Let embeddings of this weight take their rows from the layer that it was packed in, where it gives rows."""
    if not isinstance(packed, PanelLinear):
        return
    for parent in [*model.modules()]:
        for name, child in [*parent.named_children()]:
            # Embeddings of other classes may scale their rows, and one with a largest norm changes its weight.
            if type(child) is nn.Embedding and child.weight is weight and child.max_norm is None:
                setattr(parent, name, PanelEmbedding(packed, weight.dtype))


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
        """Give back what was freed, where that is much, and the code that compiled the layers' products."""
        if self._freed >= TRIM_EVERY:
            trim()
            self._freed = 0


def shared_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model's modules, with the same tensors."""
    packed = [module for module in model.modules() if isinstance(module, PrepackedLinear)]
    tensors = [*model.parameters(), *model.buffers(), *(tensor for module in packed for tensor in module.tensors())]
    made: PreTrainedModel = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    return made


def unpacked(model: PreTrainedModel) -> PreTrainedModel:
    """The model as it was before it was packed, bit by bit: its linear layers are ordinary ones again, with copies of
    their weights, and so is an embedding that was held in one. All that was not packed is shared with the model."""
    made = shared_copy(model)
    # Embeddings first, since a head that is tied to one shares its weight.
    for parent in [*made.modules()]:
        for name, child in [*parent.named_children()]:
            if isinstance(child, PanelEmbedding):
                rows = child.weight
                num, dim = rows.shape
                setattr(parent, name, nn.Embedding(num, dim, _weight=rows, _freeze=True))
    weight = getattr(made.get_input_embeddings(), "weight", None)
    for parent in [*made.modules()]:
        for name, child in [*parent.named_children()]:
            if isinstance(child, PrepackedLinear | JoinedPart) and not isinstance(parent, JoinedPart):
                setattr(parent, name, _ordinary(child, weight))
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
    return weight.device.type == "cpu" and weight.numel() >= fewest_weights and packing(weight.dtype) is not None

"""Linear layers that read the same, joined into one product: each call less counts where products are short.

The weights are held once: the layers themselves become parts of the product that replaces them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .packing import Replaced, shared_copy
from .prepacked import JoinedPart, PrepackedLinear


def join(groups: Sequence[tuple[nn.Module, Sequence[str]]], kind: type[PrepackedLinear]) -> None:
    """Replace linear layers that read the same by parts of one product of this kind. groups: a module, and the names of
    such layers within it, whose outputs are wanted side by side. Layers of other kinds are left as they are."""
    replaced = Replaced()
    for parent, names in groups:
        linears: list[Any] = [parent.get_submodule(name) for name in names]
        biases: list[Tensor] = [each.bias for each in linears if type(each) is nn.Linear and each.bias is not None]
        if any(type(linear) is not nn.Linear for linear in linears) or len(biases) not in (0, len(linears)):
            continue
        weights: list[Tensor] = [linear.weight for linear in linears]
        whole = kind(torch.cat(weights), torch.cat(biases) if biases else None)
        start = 0
        for name, linear in zip(names, linears, strict=True):
            width = linear.out_features
            parent.set_submodule(name, whole if len(names) == 1 else JoinedPart(whole, start, width))
            start += width
            replaced.note(linear.weight)
        del linears, linear, weights
        replaced.trim()


def separate(model: nn.Module) -> None:
    """Replace parts by layers of their own, in the same layout: the model's own forward pass computes the whole for
    each of them."""
    for parent in [*model.modules()]:
        for name, child in [*parent.named_children()]:
            if isinstance(child, JoinedPart):
                setattr(parent, name, type(child.whole)(child.weight, child.bias))


def separated(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model whose joined layers are layers of their own; all others are shared."""
    made = shared_copy(model)
    separate(made)
    return made


def product(linears: Sequence[Any]) -> Callable[[Tensor], Tensor]:
    """One function that gives the layers' outputs for the same input, side by side."""
    whole = whole_of(linears)
    if whole is not None:
        # `forward` is taken, since a module's call looks for hooks.
        return whole.forward if isinstance(whole, PrepackedLinear) else whole
    return lambda x: torch.cat([linear(x) for linear in linears], dim=-1)


def whole_of(linears: Sequence[Any]) -> Any:
    """The one layer that gives all of these layers' outputs side by side; None where there is none."""
    wholes = [linear.whole if isinstance(linear, JoinedPart) else linear for linear in linears]
    return wholes[0] if all(whole is wholes[0] for whole in wholes) else None

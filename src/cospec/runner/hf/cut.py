"""Smaller models out of a larger one, of the same weights: its first layers, and a head of some of its tokens."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ...errors import UnsupportedModel
from .packing import prepack
from .panels import PanelLinear
from .prepacked import PrepackedLinear


def first_layers(model: PreTrainedModel, count: int) -> PreTrainedModel:
    """The model's first layers, its final norm and its head. All tensors are the model's own.

    Raises UnsupportedModel for an architecture whose layers cannot be left out.
    """
    config = copy.deepcopy(model.config)
    _shorten(config.get_text_config(), count)
    with torch.device("meta"):
        part = type(model)(config)
    try:
        _share(part, model)
    except AttributeError as error:
        raise UnsupportedModel(f"the layers of a {config.model_type} cannot be left out: {error}") from None
    part.train(False)
    part.generation_config = model.generation_config
    return part


def with_head_of(model: PreTrainedModel, ids: Sequence[int]) -> PreTrainedModel:
    """The model with a head of these tokens' columns alone, in this order. All other tensors are the model's own.

    Raises UnsupportedModel for a model whose head is no linear layer.
    """
    whole_head = _head_of(model)
    name = next((name for name, child in model._modules.items() if child is whole_head), None)
    weight, bias = _weights_of(model, ids)
    if name is None:
        raise UnsupportedModel(f"the head of a {model.config.model_type} cannot be replaced; leave `vocabulary` out")
    head = nn.Linear(weight.shape[1], len(ids), bias=bias is not None, device="meta")
    head.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        head.bias = nn.Parameter(bias, requires_grad=False)
    heads = nn.ModuleDict({name: head})
    if isinstance(whole_head, PanelLinear):
        heads[name] = PanelLinear(weight, bias, is_wide=True)
    prepack(heads)
    part = copy.copy(model)
    part._modules = {**model._modules, **heads._modules}
    return part


def output_rows(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    """The rows [tokens, hidden] of these tokens in the model's output embedding.

    Raises UnsupportedModel for one that is no linear layer.
    """
    return _weights_of(model, ids)[0]


def _head_of(model: PreTrainedModel) -> Any:
    return model.get_output_embeddings()  # type: ignore[no-untyped-call]


def _weights_of(model: PreTrainedModel, ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight [tokens, hidden] and bias of a model's head, for these tokens alone."""
    head, columns = _head_of(model), torch.tensor(ids, device=model.device)
    if type(head) is nn.Linear or isinstance(head, PrepackedLinear):
        weight = head.rows(columns) if isinstance(head, PrepackedLinear) else head.weight.detach()[columns]
        return weight, None if head.bias is None else head.bias.detach()[columns]
    raise UnsupportedModel(
        f"the head of a {model.config.model_type} is a {type(head).__name__}, and only a linear layer can be cut to "
        "some of its tokens; leave `vocabulary` out"
    )


def _shorten(config: PreTrainedConfig, count: int) -> None:
    """Keep the first entries of whatever is listed by layer."""
    total = config.num_hidden_layers
    for name, value in list(vars(config).items()):
        if "layer" in name and isinstance(value, list | tuple) and len(value) == total:
            setattr(config, name, value[:count])
    config.num_hidden_layers = count


def _share(part: nn.Module, whole: nn.Module) -> None:
    """Give each module of `part` the tensors of the module of that name."""
    part._parameters, part._buffers = whole._parameters, whole._buffers
    for name, child in part.named_children():
        other = whole.get_submodule(name)
        if isinstance(other, PrepackedLinear) or not list(child.children()):
            setattr(part, name, other)
        else:
            _share(child, other)

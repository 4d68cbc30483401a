"""The language model within a model of text and images: decoded alone, without what reads images."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)

# Tokens by which a part is held against the whole.
_PROBE = [3, 10, 17, 24, 31]


def is_wrapper(config: PreTrainedConfig) -> bool:
    """Whether the model wraps a language model, to which it shows images as tokens."""
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and config.get_text_config() is not config


def auto_class(config: PreTrainedConfig) -> type:
    """What reads the model's weights."""
    is_causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or not is_wrapper(config)
    return AutoModelForCausalLM if is_causal else AutoModelForImageTextToText


def language_model(model: PreTrainedModel) -> PreTrainedModel:
    """The causal language model of the wrapped text model; where transformers has no class for it, or that gives other
    logits, the wrapper itself without what reads images. Any other model as it is."""
    if not is_wrapper(model.config):
        return model
    whole = _logits(model)
    part = _causal(model)
    if part is not None and torch.equal(_logits(part), whole):
        return part
    return _without_images(model, whole)


@torch.inference_mode()
def _logits(model: PreTrainedModel) -> Tensor:
    logits: Tensor = model(input_ids=torch.tensor([_PROBE], device=model.device), use_cache=False).logits
    return logits


def _causal(model: PreTrainedModel) -> PreTrainedModel | None:
    """The wrapped model under the causal class of its configuration, with the wrapper's head; None if there is none."""
    text = model.config.get_text_config()
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(text), None)
    if kind is None or getattr(model, "is_quantized", False):
        return None
    with torch.device("meta"):
        causal: Any = kind(text)
    body, head = _text_model(model), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if type(getattr(causal, causal.base_model_prefix)) is not type(body) or head is None:
        return None
    setattr(causal, causal.base_model_prefix, body)
    causal.set_output_embeddings(head)
    causal.generation_config, causal.name_or_path = model.generation_config, model.name_or_path
    part: PreTrainedModel = causal.eval()
    return part


def _text_model(model: PreTrainedModel) -> nn.Module:
    """The wrapped model without a head."""
    body: nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
    return body


def _without_images(model: PreTrainedModel, logits: Tensor) -> PreTrainedModel:
    """The model without the modules that read images, unless it gives other logits so."""
    body, text = getattr(model, model.base_model_prefix, model), _text_model(model)
    removed = [(name, child) for name, child in body.named_children() if child is not text]
    for name, _ in removed:
        setattr(body, name, None)
    try:
        is_same = torch.equal(_logits(model), logits)
    except Exception:  # what was removed is missed
        is_same = False
    for name, child in () if is_same else removed:
        setattr(body, name, child)
    return model

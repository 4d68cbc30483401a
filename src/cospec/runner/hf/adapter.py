"""PEFT's LoRA adapters, read from their folder: to the weight of each of its modules one adds a product of low rank."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ...errors import ModelNotFound, UnsupportedModel
from ..options import LoadOptions
from ..parts import ADAPTER, AGAIN, read_json
from .checkpoint import ADAPTER_WEIGHTS, called, check_pickle, check_safetensors, merge_advice

HEAD = "lm_head"
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<which>[AB])(\.default)?\.weight")
# Settings under which more is changed than weights by a product of low rank, and what that is.
_REFUSED = {
    "modules_to_save": "replaces whole modules",
    "trainable_token_indices": "replaces embeddings of single tokens",
    "target_parameters": "changes parameters that are no module's weight",
    "use_dora": "changes the magnitude of weights too (DoRA)",
    "lora_bias": "has biases of its own",
    "layer_replication": "repeats layers",
    "alora_invocation_tokens": "begins at certain tokens (activated LoRA)",
    "use_qalora": "pools its inputs (QALoRA)",
    "use_bdlora": "has blocks of its own (BD-LoRA)",
    "arrow_config": "routes between adapters (Arrow)",
    "kasa_config": "changes the base's singular values (KaSA)",
    "monteclora_config": "draws its weights (MonteCLoRA)",
}
# Ways to begin that take a part out of the base's own weights, which an adapter on the base as it is would add twice.
_BEGUN_FROM_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class Factors(NamedTuple):
    """A module's weight gains (down @ up).T. down: [in, rank]. up: [rank, out], the adapter's scale included."""

    down: Tensor
    up: Tensor

    @property
    def num_bytes(self) -> int:
        return sum(each.numel() * each.element_size() for each in self)


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter: the factors of each module that it changes, by the module's name in the base. Whoever applies it
    may put views of equal values in their place."""

    name: str
    factors: dict[str, Factors]

    def copy(self) -> "Adapter":
        return Adapter(self.name, dict(self.factors))

    @property
    def num_bytes(self) -> int:
        return sum(each.num_bytes for each in self.factors.values())

    def within(self, model: nn.Module, ids: Sequence[int] | None) -> "Adapter":
        """The adapter of a part of its base. ids: the tokens that the part's head is cut to, None for all."""
        kept = {name: own for name, own in self.factors.items() if features(model, name) is not None}
        if ids is not None and HEAD in kept:
            kept[HEAD] = Factors(kept[HEAD].down, kept[HEAD].up[:, [*ids]])
        return Adapter(self.name, kept)


def read_adapter(name: str, folder: Path, options: LoadOptions, like: Tensor) -> Adapter:
    """The adapter in a folder, in the type and on the device of `like`, a tensor of its base.

    Raises UnsupportedModel for an adapter of another kind, or one that is broken, and ModelNotFound for one without
    weights.
    """
    config = read_json(name, folder / ADAPTER)
    _check_kind(name, folder, config)
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _tensors(name, folder, options).items():
        match = _TENSOR.fullmatch(key)
        if match is None or tensor.dim() != 2:
            raise UnsupportedModel(
                f"{called(name, folder)} is an adapter with the weight {key!r} {list(tensor.shape)}, which is no pair "
                f"of factors (LoRA); {merge_advice(folder)}"
            )
        pairs.setdefault(match["module"], {})[match["which"]] = tensor
    return Adapter(name, {module: _factors(name, module, pair, config, like) for module, pair in pairs.items()})


def misfits(adapter: Adapter, model: nn.Module) -> Iterator[str]:
    """What of the adapter does not fit this base."""
    for module, factors in adapter.factors.items():
        taken, given = factors.down.shape[0], factors.up.shape[1]
        own = features(model, module)
        if own is None:
            yield f"it changes {module!r}, and the base has no linear module of that name"
        elif own != (taken, given):
            yield f"its {module!r} is {[given, taken]}, and the base's is {[own[1], own[0]]}"


def features(model: nn.Module, name: str) -> tuple[int, int] | None:
    """The width of what a linear module takes, and of what it gives; None where there is no such module."""
    try:
        module: Any = model.get_submodule(name)
    except AttributeError:
        return None
    if type(module).__name__ == "Conv1D":
        # GPT-2's linear layer, whose weight is [in, out].
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    if not hasattr(module, "in_features") or not hasattr(module, "out_features"):
        return None
    return int(module.in_features), int(module.out_features)


def _check_kind(name: str, folder: Path, config: Mapping[str, Any]) -> None:
    """Raises UnsupportedModel for what is no LoRA, or changes more than that."""
    kind, begun = config.get("peft_type"), str(config.get("init_lora_weights")).lower()
    reason = None
    if kind != "LORA":
        reason = f"is an adapter of the type {kind!r} ({ADAPTER}), and LORA alone is read"
    elif config.get("bias", "none") != "none":
        reason = f"is an adapter that changes the base's biases (bias: {config['bias']!r})"
    elif begun.startswith(_BEGUN_FROM_BASE):
        reason = f"is an adapter that was begun from its base's own weights (init_lora_weights: {begun!r})"
    elif refused := next((key for key in _REFUSED if config.get(key)), None):
        reason = f"is an adapter that {_REFUSED[refused]} ({refused}), which is not read"
    if reason is not None:
        raise UnsupportedModel(f"{called(name, folder)} {reason}; {merge_advice(folder)}")


def _tensors(name: str, folder: Path, options: LoadOptions) -> dict[str, Tensor]:
    safe, pickled = ADAPTER_WEIGHTS
    if (folder / safe).is_file():
        check_safetensors(name, folder / safe)
        tensors = load_file(folder / safe)
    elif (folder / pickled).is_file():
        check_pickle(name, pickled, options)
        tensors = torch.load(folder / pickled, map_location="cpu", weights_only=True)
    else:
        raise ModelNotFound(f"{called(name, folder)} is an adapter without weights: it has no {safe}; {AGAIN}")
    if not tensors:
        raise UnsupportedModel(f"{called(name, folder)} is an adapter without weights: they are empty; {AGAIN}")
    return tensors


def _factors(name: str, module: str, pair: Mapping[str, Tensor], config: Mapping[str, Any], like: Tensor) -> Factors:
    """The module's factors. Raises UnsupportedModel where one is missing, does not fit the other, or is not finite."""
    a, b = pair.get("A"), pair.get("B")
    if a is None or b is None or a.shape[0] != b.shape[1]:
        shapes = " and ".join(f"lora_{which} {list(each.shape)}" for which, each in pair.items())
        raise UnsupportedModel(f"{name!r} is an adapter that has {shapes} for {module!r}, which is no pair; {AGAIN}")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise UnsupportedModel(f"{name!r} is an adapter whose weights of {module!r} are NaN or infinite; {AGAIN}")
    scaled = b.double() * _scale(name, module, a.shape[0], config)
    return Factors(a.t().contiguous().to(like), scaled.t().contiguous().to(like))


def _scale(name: str, module: str, rank: int, config: Mapping[str, Any]) -> float:
    """alpha / rank, or alpha / sqrt(rank) where the adapter is rank-stabilised; alpha may be the module's own."""
    patterns: Mapping[str, Any] = config.get("alpha_pattern") or {}
    own = next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", module)), None)
    alpha = config.get("lora_alpha") if own is None else patterns[own]
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise UnsupportedModel(f"{name!r} is an adapter whose lora_alpha is {alpha!r} for {module!r}; {AGAIN}")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)

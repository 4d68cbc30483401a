"""A model's first layers, its final norm and its head, as a model that is trained: whole, or by an adapter on them."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialised
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ... import demo
from ...errors import InvalidDistillation, MissingExtra, UnsupportedModel
from ...storage import keep, refusal
from ..options import LoadOptions, device_of
from ..parts import ADAPTER, Parts, parts_of
from .checkpoint import ADAPTER_WEIGHTS
from .cut import first_layers
from .load import load_model
from .location import locate
from .prepacked import is_native

MODEL_WEIGHTS = "model.safetensors"
# How far the head, applied by itself, may be off a model's own logits, as a share of their spread.
HEAD_TOLERANCE = 0.05


class Trained:
    """trained: the parameters that are trained, by name, in float32."""

    trained: dict[str, nn.Parameter]
    # What they are stored in.
    stored: torch.dtype = torch.bfloat16

    @property
    def num_parameters(self) -> int:
        return sum(each.numel() for each in self.trained.values())

    def round(self) -> None:
        """Round the trained parameters to what is stored, so that what is measured is what is written."""
        for parameter in self.trained.values():
            parameter.data = parameter.data.to(self.stored).to(parameter.dtype)

    def state(self) -> dict[str, Tensor]:
        """The trained parameters, as they are."""
        return {name: each.detach() for name, each in self.trained.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over trained parameters. Raises InvalidDistillation for those of another model."""
        shapes = [{name: each.shape for name, each in given.items()} for given in (state, self.trained)]
        if shapes[0] != shapes[1]:
            raise InvalidDistillation("the weights that were kept are those of another model; remove them")
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state[name])


class FirstLayers(Trained):
    """The first layers of a model, as many as it has been cut to, with its final norm and head.

    model: what is saved. vocabulary: the ids that its head is cut to, in ascending order; None for all. num_entries: of
    the ensemble's vocabulary; what is behind them is padding. precision: what forward passes are computed in.
    """

    def __init__(self, model: PreTrainedModel, num_entries: int, precision: torch.dtype) -> None:
        self.model: Any = model
        self.trained: dict[str, nn.Parameter] = {}
        self.vocabulary: tuple[int, ...] | None = None
        self._precision = precision
        self._bare = model
        self._head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        self._weight: Tensor = self._head.weight.detach()[:num_entries]
        bias = getattr(self._head, "bias", None)
        self._bias: Tensor | None = None if bias is None else bias.detach()[:num_entries]
        self._cap: float | None = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        self.columns = torch.arange(len(self._weight), device=model.device)
        model.requires_grad_(False)
        self._check_head()

    @property
    def device(self) -> torch.device:
        return self._bare.device

    @property
    def is_adapter(self) -> bool:
        return self.model is not self._bare

    @property
    def num_layers(self) -> int:
        return int(self._bare.config.get_text_config().num_hidden_layers)

    @property
    def width(self) -> int:
        """Columns of the head."""
        return len(self._weight)

    def cut_vocabulary(self, ids: Sequence[int]) -> None:
        """Propose these tokens alone."""
        self.vocabulary = tuple(sorted(ids))
        listed = torch.tensor(self.vocabulary, device=self.device)
        self.columns = torch.full_like(self.columns, -1)
        self.columns[listed] = torch.arange(len(listed), device=self.device)
        self._weight = self._weight[listed].contiguous()
        self._bias = None if self._bias is None else self._bias[listed]

    def train_whole(self) -> None:
        """Train the layers and the final norm themselves; embedding and head stay."""
        self._bare.float()  # type: ignore[no-untyped-call]
        fixed = {id(embedding.weight) for embedding in (self._bare.get_input_embeddings(), self._head)}
        self.trained = {name: each for name, each in self._bare.named_parameters() if id(each) not in fixed}
        for parameter in self.trained.values():
            parameter.requires_grad_(True)

    def train_adapter(self, rank: int, seed: int, base: str) -> None:
        """Train a LoRA adapter of this rank on all linear parts of the layers. base: what the adapter names as its
        model. Raises MissingExtra."""
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError:
            raise MissingExtra("an adapter needs PEFT: pip install 'cospec[adapters]', or train --whole") from None
        layers = decoder_layers(self._bare)
        config = LoraConfig(
            r=rank,
            lora_alpha=rank,
            target_modules=sorted(_linear_names(layers)),
            fan_in_fan_out=any(isinstance(each, Conv1D) for each in layers.modules()),
            # The adapter then fits the whole model as well.
            layers_to_transform=[*range(len(layers))],
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(), warnings.catch_warnings():
            # PEFT reads what transformers has renamed.
            warnings.simplefilter("ignore", FutureWarning)
            torch.manual_seed(seed)
            self.model = get_peft_model(self._bare, config)
        config.base_model_name_or_path = base
        self.trained = {name: each for name, each in self.model.named_parameters() if each.requires_grad}
        for parameter in self.trained.values():
            parameter.data = parameter.data.float()

    def hidden(self, input_ids: Tensor) -> Tensor:
        """[rows, width] token ids, padded at their ends -> [rows, width, size], behind the final norm."""
        is_mixed = self._bare.dtype != self._precision
        with torch.autocast(self.device.type, self._precision, enabled=is_mixed):
            found: Tensor = self._bare.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        return found

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, size] -> [n, columns of the head], in float32."""
        logits = nn.functional.linear(hidden.to(self._weight.dtype), self._weight, self._bias).float()
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)

    def save(self, folder: Path) -> Path:
        """Write what `--proposer` takes: an adapter's files, or a model's, in bfloat16, each whole or not at all. The
        file of the weights."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.is_adapter:
            from peft import get_peft_model_state_dict

            state = get_peft_model_state_dict(self.model, save_embedding_layers=False)
            keep_weights(state, folder / ADAPTER_WEIGHTS[0], self.stored)
            config = self.model.peft_config["default"].to_dict() | {"inference_mode": True}
            keep(folder / ADAPTER, json.dumps(config, indent=2, sort_keys=True, default=sorted))
            return folder / ADAPTER_WEIGHTS[0]
        tied = {*(getattr(self._bare, "all_tied_weights_keys", None) or ())}
        state = {name: each for name, each in self._bare.state_dict().items() if name not in tied}
        keep_weights(state, folder / MODEL_WEIGHTS, self.stored)
        self._bare.config.dtype = self.stored
        keep(folder / "config.json", self._bare.config.to_json_string())
        keep(folder / "generation_config.json", self._bare.generation_config.to_json_string())
        return folder / MODEL_WEIGHTS

    def _check_head(self) -> None:
        """Raises UnsupportedModel where the logits are not the head's of the last hidden state."""
        ids = torch.arange(8, device=self.device)[None] % self.width
        with torch.no_grad():
            own = self._bare(input_ids=ids, use_cache=False).logits[0, :, : self.width].float()
            off = (self.logits(self.hidden(ids)[0]) - own).abs().mean() / (own.std() + 1e-9)
        if not off < HEAD_TOLERANCE:
            raise UnsupportedModel(
                f"{self._bare.name_or_path!r} ({self._bare.config.model_type}) computes its logits from its last "
                f"hidden state in a way of its own (off by {off:.2g} of their spread), and cannot be distilled; choose "
                "another member"
            )


def load_first_layers(model: str, options: LoadOptions, layers: int, num_entries: int) -> tuple[FirstLayers, str]:
    """The first layers of the model of that name, of an adapter its base's, read anew: the one that decodes is packed
    for that. And what the whole model is called in a file.

    Raises InvalidDistillation for more layers than there are, and what loading raises.
    """
    parts = parts_of(model, options)
    precision = precision_of(torch.device(device_of(options)))
    read = replace(parts.options, dtype=precision, quantization={})
    path = locate(demo.path_of(parts.whole), read)
    whole = load_model(parts.whole, read, path)
    total = whole.config.get_text_config().num_hidden_layers
    if layers > total:
        raise InvalidDistillation(
            f"--layers {layers} is beyond {parts.whole!r}, which has {total} layers; give so many at most"
        )
    return FirstLayers(first_layers(whole, layers), num_entries, precision), name_of_whole(parts, path)


def name_of_whole(parts: Parts, path: Path) -> str:
    """What the whole model is called in a file. path: where it was found."""
    named_by_file = parts.options.gguf_file is not None and path.is_file()
    return str(path) if named_by_file else parts.whole


def precision_of(device: torch.device) -> torch.dtype:
    """What forward passes of a training are computed in: bfloat16 where the device multiplies in it."""
    return torch.bfloat16 if device.type != "cpu" or is_native(torch.bfloat16) else torch.float32


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Its layers, in order. Raises UnsupportedModel for a model in which they are not found."""
    number = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return module
    raise UnsupportedModel(
        f"{model.name_or_path!r} ({model.config.model_type}) has no list of its {number} layers, of which the first "
        "could be taken; choose another member"
    )


def _linear_names(layers: nn.Module) -> set[str]:
    """The last part of the names of all linear parts, by which PEFT finds them."""
    return {name.rpartition(".")[2] for name, each in layers.named_modules() if isinstance(each, nn.Linear | Conv1D)}


def keep_weights(state: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Whole or not at all, in this type. Raises CospecError where it cannot be written."""
    beside = path.with_name(f"{path.name}.new")
    stored = {name: each.detach().to("cpu", dtype).contiguous() for name, each in state.items()}
    try:
        # safetensors itself makes files that the owner alone can read.
        beside.write_bytes(serialised(stored, metadata={"format": "pt"}))
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise refusal(path, error) from None

"""Random LoRA adapters, made by PEFT, and the models that PEFT merges them into."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel


def adapted(folder: Path, base: Path, *, seed: int = 1, **settings: Any) -> PreTrainedModel:
    """Put an adapter of `base` into `folder`, far from zero; the model that it is merged into."""
    config = LoraConfig(**{"r": 4, "target_modules": "all-linear", **settings})
    with warnings.catch_warnings():
        # PEFT warns of what it corrects itself.
        warnings.simplefilter("ignore")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(folder)
        return model.merge_and_unload().eval()


def rewrite(folder: Path, **settings: Any) -> None:
    """Change what the adapter's configuration says."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def rename(folder: Path, old: str, new: str) -> None:
    """Change the names of the adapter's weights."""
    path = folder / "adapter_model.safetensors"
    save_file({name.replace(old, new): tensor for name, tensor in load_file(path).items()}, path)

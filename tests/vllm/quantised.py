"""Weights that are stored quantised, written by hand in the format of compressed-tensors."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

_WEIGHTS = "model.safetensors"
# Kind -> the type that a weight is stored as, the largest number that it holds, the format's name, and its numbers'.
KINDS = {
    "int8": (torch.int8, 127, "int-quantized", "int"),
    "fp8": (torch.float8_e4m3fn, 448, "float-quantized", "float"),
}


def quantise(folder: Path, kind: str) -> Path:
    """The model in the folder with 8 bits a weight, a scale for each output; what is multiplied by it has 8 bits too,
    with a scale for each token."""
    dtype, most, name, numbers = KINDS[kind]
    weights = load_file(folder / _WEIGHTS)
    for key in [key for key in weights if key.endswith("_proj.weight")]:
        scale = weights[key].abs().amax(1, keepdim=True) / most
        scaled = weights[key] / scale
        weights[key] = (scaled.round() if kind == "int8" else scaled).clamp(-most, most).to(dtype)
        weights[f"{key}_scale"] = scale
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": _config(name, numbers)}))
    return folder


def _config(name: str, numbers: str) -> dict[str, Any]:
    both = {"num_bits": 8, "type": numbers, "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**both, "strategy": "channel", "dynamic": False},
        "input_activations": {**both, "strategy": "token", "dynamic": True},
    }
    return {
        "quant_method": "compressed-tensors",
        "format": name,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }

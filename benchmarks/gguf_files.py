"""GGUF files for measurements and tests: another quantisation of a file, and a PEFT adapter as llama.cpp reads it."""

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.torch import load_file

# How llama.cpp numbers kinds of files.
FILE_TYPES = {"F16": 1, "Q8_0": 7}


def requantised(file: Path, out: Path, kind: str = "Q8_0") -> Path:
    """The file in another quantisation, by llama.cpp's own function."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = FILE_TYPES[kind], True, 1
    if llama_cpp.llama_model_quantize(str(file).encode(), str(out).encode(), params) != 0:
        raise SystemExit(f"llama.cpp could not write {out}")
    return out


def lora_file(adapter: Path, base: Path, out: Path) -> Path:
    """The LoRA adapter of a folder, of a Llama, as a GGUF file on the base's."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    fields = gguf.GGUFReader(base).fields
    heads, kv_heads = (int(fields[f"llama.attention.{key}"].contents()) for key in ("head_count", "head_count_kv"))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, int(fields["llama.block_count"].contents()))
    # llama.cpp divides by the rank alone.
    alpha = config["lora_alpha"] * (config["r"] ** 0.5 if config.get("use_rslora") else 1)
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(alpha))
    for key, tensor in load_file(adapter / "adapter_model.safetensors").items():
        values = tensor.float().numpy()
        module, _, which = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
        if which == "B":
            count = {"q_proj": heads, "k_proj": kv_heads}.get(module.rpartition(".")[2])
            values = values if count is None else _interleaved(values, count)
        name = f"{names.get_name(module)}.weight.lora_{which.lower()}"
        writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """Rotary positions turn neighbouring columns in llama.cpp."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)

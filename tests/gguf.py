"""Tiny GGUF files, as llama.cpp's converter writes them."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from .models import tiny
from .text.tokenizers import byte_level, finished

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] + '\n' + message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TYPES = {"<unk>": TokenType.UNKNOWN}


def tiny_for(tokenizer: PreTrainedTokenizerFast, **changes: Any) -> PreTrainedModel:
    """A Llama whose rows are whole blocks of quantised weights."""
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return tiny("llama", **{**sizes, **ids, **changes})


def write_gguf(
    path: Path,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    *,
    quantization: str = "Q8_0",
    leave_out: str | None = None,
    **values: Any,
) -> Path:
    """The file, with a Llama in it. values: metadata beside or instead of the model's, with __ for a dot. leave_out: of
    which tensors."""
    tokenizer = tokenizer or finished(byte_level(), eos_token="<|im_end|>")
    model = model or tiny_for(tokenizer)
    writer = GGUFWriter(path, values.pop("general__architecture", "llama"))
    for key, value in {**_settings(model), **_vocabulary(tokenizer), **values}.items():
        _add(writer, key.replace("__", "."), value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    for key, tensor in model.state_dict().items():
        stem, suffix = key.rsplit(".", 1)
        if leave_out is None or leave_out not in key:
            _add_tensor(
                writer, f"{names.get_name(stem)}.{suffix}", _as_written(key, tensor.numpy(), model), quantization
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _settings(model: PreTrainedModel) -> dict[str, Any]:
    config = model.config
    return {
        "general.name": "tiny",
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "llama.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "llama.vocab_size": config.vocab_size,
    }


def _vocabulary(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    has_bytes = "<0x00>" in tokens
    added = tokenizer.added_tokens_decoder
    own: dict[str, Any] = {"scores": [-float(id) for id in range(len(tokens))]}
    if not has_bytes:
        own = {"merges": [" ".join(pair) for pair in state["model"]["merges"]], "pre": "default"}
    return {
        "tokenizer.ggml.model": "llama" if has_bytes else "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(_type(id, token, added)) for id, token in enumerate(tokens)],
        "tokenizer.ggml.bos_token_id": tokenizer.bos_token_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.unknown_token_id": tokenizer.unk_token_id,
        "tokenizer.ggml.add_bos_token": tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id,
        "tokenizer.chat_template": TEMPLATE,
        **{f"tokenizer.ggml.{key}": value for key, value in own.items()},
    }


def _type(id: int, token: str, added: dict[int, Any]) -> TokenType:
    if token.startswith("<0x"):
        return TokenType.BYTE
    if id in added:
        return _TYPES.get(token, TokenType.CONTROL if added[id].special else TokenType.USER_DEFINED)
    return TokenType.NORMAL


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif value is not None:
        kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        kinds[type(value)](key, value)


def _as_written(key: str, values: np.ndarray, model: PreTrainedModel) -> np.ndarray:
    """Rotary positions turn neighbouring columns in llama.cpp."""
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    count = next((count for name, count in heads.items() if name in key), None)
    if count is None:
        return values
    return values.reshape(count, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _add_tensor(writer: GGUFWriter, name: str, values: np.ndarray, quantization: str) -> None:
    kind = GGMLQuantizationType[quantization if values.ndim > 1 else "F32"]
    writer.add_tensor(name, gguf.quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)

"""Tiny random models of many architectures, in memory or in a folder, for tests."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

VOCAB = 128
_CORE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
_MIXED = ["sliding_attention", "full_attention"]
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 2, "mamba_chunk_size": 8}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
# name -> (model type, what it has beside or instead of _CORE)
_KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen2 sliding": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "layer_types": _MIXED}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "mistral": ("mistral", {"sliding_window": 5}),
    "gemma2": ("gemma2", {"head_dim": 8, "sliding_window": 5, "layer_types": _MIXED}),
    "gemma3": ("gemma3_text", {"head_dim": 8, "sliding_window": 5, "layer_types": _MIXED}),
    "phi3": ("phi3", {"sliding_window": None}),
    "phi3 sliding": ("phi3", {"sliding_window": 5}),
    "mixtral": ("mixtral", _EXPERTS),
    "olmo2": ("olmo2", {}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0]}),
    "gpt_oss": ("gpt_oss", {"head_dim": 8, "sliding_window": 5, "layer_types": _MIXED, **_EXPERTS}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "gpt_neox": ("gpt_neox", {}),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "falcon": ("falcon", {"alibi": False, "new_decoder_architecture": False, "multi_query": True}),
    "falcon alibi": ("falcon", {"alibi": True}),
    "bloom": ("bloom", {"n_layer": 2, "n_head": 4}),
    "mpt": ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}),
    "gpt_neo": ("gpt_neo", {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}),
    "mamba": ("mamba", {"state_size": 4}),
    "granitemoehybrid": (
        "granitemoehybrid",
        {
            "layer_types": ["full_attention"] * 2, "num_local_experts": 4, "shared_intermediate_size": 48,
            "mamba_n_heads": 4, "position_embedding_type": "rope",
        },
    ),
    "qwen3_next": (
        "qwen3_next",
        {
            "head_dim": 8, "layer_types": ["linear_attention", "full_attention"], "num_experts": 4,
            "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
            "linear_num_key_heads": 2, "linear_num_value_heads": 2,
            "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        },
    ),
    "qwen3_5": (
        "qwen3_5_text",
        {
            "head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2, "linear_num_value_heads": 4,
            "linear_key_head_dim": 8, "linear_value_head_dim": 6,
        },
    ),
    "olmo_hybrid": (
        "olmo_hybrid",
        {
            "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
            "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        },
    ),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention"]}),
    "lfm2_moe": (
        "lfm2_moe",
        {
            "layer_types": ["conv", "full_attention"], "num_dense_layers": 1, "num_experts": 4,
            "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        },
    ),
    "lfm3": ("lfm3", {"layer_types": ["conv", "full_attention"]}),
    "granitemoehybrid mamba": (
        "granitemoehybrid",
        {
            "layer_types": ["linear_attention", "full_attention"], "num_local_experts": 0,
            "shared_intermediate_size": 48, "position_embedding_type": None, **_MAMBA,
        },
    ),
    "falcon_h1": (
        "falcon_h1", {"head_dim": 8, **_MAMBA, "mamba_d_ssm": 64},
    ),
    "nemotron_h": (
        "nemotron_h",
        {
            "layers_block_type": ["linear_attention", "mlp", "full_attention"], "head_dim": 8, "mamba_num_heads": 4,
            "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "chunk_size": 8,
        },
    ),
    "granitemoehybrid experts": (
        "granitemoehybrid",
        {
            "layer_types": ["linear_attention", "full_attention"], "shared_intermediate_size": 48,
            "position_embedding_type": None, **_EXPERTS, **_MAMBA,
        },
    ),
    "nemotron_h experts": (
        "nemotron_h",
        {
            "layers_block_type": ["linear_attention", "moe", "full_attention"], "head_dim": 8, "mamba_num_heads": 4,
            "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "chunk_size": 8, "n_routed_experts": 4,
            "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16,
            "moe_shared_expert_intermediate_size": 16, "moe_latent_size": 16,
        },
    ),
    "mamba2": (
        "mamba2", {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 2, "chunk_size": 8},
    ),
    "bamba": ("bamba", {"attn_layer_indices": [1], **_MAMBA}),
}  # fmt: skip
# Their configurations have names of their own for all of it.
_FOREIGN = {"gpt2", "bloom", "mpt", "gpt_neo"}


def tiny(kind: str, *, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A random model in float32, far enough from zero that its rows differ clearly."""
    model_type, own = _KINDS[kind]
    core = {"vocab_size": VOCAB, "hidden_size": 32, "eos_token_id": 1} if model_type in _FOREIGN else _CORE
    settings = {**core, **own, **changes}
    if model_type in ("gpt2", "mpt"):
        del settings["hidden_size"]
    config = AutoConfig.for_model(model_type, **settings)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
    return model


def saved(folder: Path, kind: str = "llama", *, num_entries: int | None = None, **changes: object) -> Path:
    """The folder, with a tiny model in it, and a tokenizer of `num_entries` words if given."""
    tiny(kind, **changes).save_pretrained(folder)
    if num_entries is not None:
        tokenizer(num_entries).save_pretrained(folder)
    return folder


def tokenizer(num_entries: int) -> PreTrainedTokenizerFast:
    """Words <s>, </s>, w2, w3, ... split at spaces."""
    entries = ["<s>", "</s>", *(f"w{i}" for i in range(2, num_entries))]
    words = Tokenizer(models.WordLevel({entry: i for i, entry in enumerate(entries)}, unk_token="<s>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")

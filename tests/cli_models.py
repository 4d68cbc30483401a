"""Tiny models on disk: random Llama weights and a byte-level BPE tokenizer that they share."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT = 512
_CORPUS = ["the members propose tokens and the target settles them", "two models decode one text, exactly"]


def write_models(folder: Path) -> Path:
    """`a`, `b`, `c` share a tokenizer; `other` has another one."""
    shared, smaller = tokenizer(300), tokenizer(280)
    for seed, name in enumerate(("a", "b", "c")):
        write_model(folder / name, shared, seed)
    write_model(folder / "other", smaller, seed=3)
    return folder


def tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|endoftext|>", clean_up_tokenization_spaces=False)


def write_model(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=0,
        # Wide enough that the models differ, and that drafts are rejected now and then.
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)

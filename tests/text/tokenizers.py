"""Tokenizers of each kind that models have, trained on a few sentences."""

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "the cat sat on the mat and the dog sat on the log",
    "Hello world, this is a small text about the world of cats and dogs",
    "def main(value): return value + 1  # the value",
    '{"name": "Tom", "age": 12}  café naïve déjà vu',
] * 20
SPECIAL = ("<unk>", "<s>", "</s>")
CHAT = ("<|im_start|>", "<|im_end|>")


def byte_level(added: tuple[str, ...] = (), *, size: int = 420) -> Tokenizer:
    """As GPT-2's, Llama 3's and Qwen's."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*SPECIAL, *CHAT],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    words.train_from_iterator(CORPUS, trainer)
    words.add_tokens([AddedToken(text, normalized=False) for text in added])
    return words


def byte_fallback(*, prepends: bool = True, added: tuple[str, ...] = ()) -> Tokenizer:
    """As Llama 2's and Mistral's, whose words begin with ▁; without `prepends` as Gemma's, which puts none in front."""
    words = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    words.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never")
    special = [*SPECIAL, *CHAT, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    words.train_from_iterator(CORPUS, trainer)
    state = json.loads(words.to_str())
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    state["pre_tokenizer"] = None
    state["normalizer"] = _sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, spaces) if prepends else spaces
    steps = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prepends else []
    state["decoder"] = _sequence("decoders", *steps, *strip)
    # Bytes are ordinary entries.
    state["added_tokens"] = [entry for entry in state["added_tokens"] if not entry["content"].startswith("<0x")]
    words = Tokenizer.from_str(json.dumps(state))
    words.add_tokens([AddedToken(text, normalized=False) for text in added])
    return words


def _sequence(name: str, *parts: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", name: [*parts]}


def metaspace(scheme: str) -> Tokenizer:
    """As T5's and XGLM's: a unigram vocabulary without bytes."""
    words = Tokenizer(models.Unigram())
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    words.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=[*SPECIAL, *CHAT], unk_token="<unk>", show_progress=False
    )
    words.train_from_iterator(CORPUS, trainer)
    return words


def word_ends() -> Tokenizer:
    """As CLIP's and the first GPT's: an entry that ends a word has the suffix </w>."""
    words = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=[*SPECIAL, *CHAT], show_progress=False, end_of_word_suffix="</w>"
    )
    words.train_from_iterator(CORPUS, trainer)
    return words


def finished(words: Tokenizer, *, bos: bool = False, eos: bool = False, **names: Any) -> PreTrainedTokenizerFast:
    """bos, eos: whether <s> stands in front of a text, and </s> behind it."""
    if bos or eos:
        single = f"{'<s> ' if bos else ''}$A{' </s>' if eos else ''}"
        ids = [(text, words.token_to_id(text)) for text in ("<s>", "</s>")]
        words.post_processor = processors.TemplateProcessing(single=single, pair=f"{single} $B", special_tokens=ids)
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **names}
    return PreTrainedTokenizerFast(tokenizer_object=words, **settings)

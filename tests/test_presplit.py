"""How texts of GGUF files are split before merges, by the name that the file gives."""

import logging

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from cospec import demo
from cospec.runner import LoadOptions
from cospec.runner.gguf import read_gguf_header
from cospec.runner.hf import gguf
from cospec.runner.hf.gguf import read_gguf
from cospec.runner.hf.presplit import split_as_named

from .gguf import write_gguf
from .text.tokenizers import byte_level, finished

TEXT = "It's  48 clips,\n\n2024!"
# What each model's own tokenizer.json makes of it, written by hand from its expressions.
DIGITS = ["It", "'s", "  ", "4", "8", " clips", ",", "\n\n", "2", "0", "2", "4", "!"]
LLAMA3 = ["It", "'s", " ", " ", "48", " clips", ",\n\n", "202", "4", "!"]
QWEN2 = ["It", "'s", " ", " ", "4", "8", " clips", ",\n\n", "2", "0", "2", "4", "!"]
GPT2 = ["It", "'s", " ", " 48", " clips", ",", "\n", "\n", "2024", "!"]
SPLITS = {
    "smollm": DIGITS,
    "starcoder": DIGITS,
    "refact": DIGITS,
    "command-r": DIGITS,
    "llama-bpe": LLAMA3,
    "glm4": LLAMA3,
    "qwen2": QWEN2,
    "stablelm2": QWEN2,
    "bloom": ["It's", " ", " 48", " clips", ",\n\n", "2024", "!"],
    "viking": ["It's", " ", " ", "4", "8", " clips", ",\n\n", "2", "0", "2", "4", "!"],
    "deepseek-coder": ["It", "'", "s", "  ", "4", "8", " clips", ",", "\n", "\n", "2", "0", "2", "4", "!"],
    "deepseek-v3": ["It", "'s", "  ", "48", " clips", ",\n\n", "202", "4", "!"],
    "seed-coder": ["It", "'s", " ", " ", "4", "8", " clips", ",", "\n\n", "2", "0", "2", "4", "!"],
    "falcon": ["It", "'", "s", " ", " ", "48", " clips", ",", "\n", "\n", "202", "4", "!"],
    "gpt-2": GPT2,
    "default": GPT2,
}
CPU = LoadOptions(device="cpu")
is_installed = pytest.mark.skipif(not demo.has_smollm2(), reason=f"no real model: {demo.HOW_TO_GET_SMOLLM2}")


def backend() -> Tokenizer:
    """As transformers leaves one whose name it does not know."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return words


@pytest.mark.parametrize("name", SPLITS)
def test_a_text_is_split_as_the_models_own_tokenizer_does(name):
    words = backend()
    split_as_named("here", words, name)
    pieces = [piece.replace("Ġ", " ").replace("Ċ", "\n") for piece, _ in words.pre_tokenizer.pre_tokenize_str(TEXT)]
    assert pieces == SPLITS[name]
    assert words.model.ignore_merges == (name == "llama-bpe")


def test_what_transformers_knows_is_left_alone():
    words = backend()
    words.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), words.pre_tokenizer])
    before = words.to_str()
    split_as_named("here", words, "smollm")
    assert words.to_str() == before


def many_digits() -> Tokenizer:
    """A vocabulary that has learned runs of digits and of spaces."""
    words = byte_level()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    words.train_from_iterator(["48 48 248   \n\n  a"] * 20, trainer)
    return words


def test_a_file_is_split_by_its_name(tmp_path, caplog):
    words = finished(many_digits())
    found = {}
    for name in ("smollm", "gpt-2", "unheard-of"):
        file = write_gguf(tmp_path / f"{name}.gguf", tokenizer=words, tokenizer__ggml__pre=name)
        with caplog.at_level(logging.WARNING, "cospec"):
            tokenizer = read_gguf(str(file), file, CPU)[2]
        found[name] = [tokenizer.decode([token]) for token in tokenizer.encode("48")]
        assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert found == {"smollm": ["4", "8"], "gpt-2": ["48"], "unheard-of": ["48"]}
    # The package that writes the files warns too.
    (record,) = (record for record in caplog.records if record.name.startswith("cospec"))
    assert "unheard-of.gguf" in record.getMessage()
    assert "(tokenizer.ggml.pre: unheard-of)" in record.getMessage()


@is_installed
def test_smollm2_reads_digits_one_by_one_and_spaces_before_them_together():
    file = demo.smollm2_file()
    with gguf._alone(file) as source:
        tokenizer = gguf._tokenizer("here", read_gguf_header(file), source)
    for text, pieces in (
        ("Natalia sold 48 clips", ["N", "atal", "ia", " sold", " ", "4", "8", " clips"]),
        ("  48", ["  ", "4", "8"]),
        ("a\n\n2.", ["a", "\n\n", "2", "."]),
    ):
        assert [tokenizer.decode([token]) for token in tokenizer.encode(text)] == pieces
    assert tokenizer.encode("Hello world! 123") == [19556, 905, 17, 216, 33, 34, 35]

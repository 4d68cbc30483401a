"""Every kind of tokenizer, by name."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from cospec.runner import LoadOptions
from cospec.runner.hf.gguf import read_gguf

from ..gguf import write_gguf
from .hostile import HOSTILE
from .tokenizers import byte_fallback, byte_level, finished, metaspace, word_ends


def of_gguf(words: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer as it is read from a GGUF file."""
    with TemporaryDirectory() as folder:
        file = write_gguf(Path(folder) / "tiny.gguf", tokenizer=words)
        return read_gguf(str(file), file, LoadOptions(device="cpu"))[2]._tokenizer


# Tokens that a user has added: one with a space, one that is no ASCII, one that begins with a space.
ADDED = ("hello world", "é", " new")

KINDS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "byte-level": lambda: finished(byte_level()),
    "byte-level with BOS": lambda: finished(byte_level(), bos=True),
    "byte-level with an end appended": lambda: finished(byte_level(), bos=True, eos=True),
    "byte-level with added entries": lambda: finished(byte_level(ADDED)),
    "byte-level that ends a turn": lambda: finished(byte_level(), eos_token="<|im_end|>"),
    "byte fallback": lambda: finished(byte_fallback(), bos=True),
    "byte fallback without BOS": lambda: finished(byte_fallback()),
    "byte fallback with an end appended": lambda: finished(byte_fallback(), bos=True, eos=True),
    "byte fallback with added entries": lambda: finished(byte_fallback(added=ADDED), bos=True),
    "byte fallback, nothing in front": lambda: finished(byte_fallback(prepends=False), bos=True),
    "metaspace": lambda: finished(metaspace("always"), eos=True),
    "metaspace, never in front": lambda: finished(metaspace("never")),
    "byte-level of a GGUF file": lambda: of_gguf(finished(byte_level(ADDED), bos=True)),
    "byte fallback of a GGUF file": lambda: of_gguf(finished(byte_fallback(), bos=True)),
    "byte fallback without BOS of a GGUF file": lambda: of_gguf(finished(byte_fallback())),
    "word ends": lambda: finished(word_ends()),
    **HOSTILE,
}


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerBase:
    return KINDS[kind]()

"""Files for llama.cpp. Without llama-cpp-python none of this folder's tests is collected: `make test-gguf` has it."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from cospec import demo

from ..gguf import tiny_for, write_gguf
from ..text.tokenizers import byte_level, finished

collect_ignore_glob = [] if find_spec("llama_cpp") else ["test_*.py"]


@pytest.fixture(scope="session")
def words():
    return finished(byte_level(), eos_token="<|im_end|>")


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="session")
def exact(folder, words) -> Path:
    """A tiny model in float32, whose rows in llama.cpp are transformers' but for the rounding of keys and values."""
    torch.manual_seed(1)
    return write_gguf(folder / "exact.gguf", tiny_for(words), words, quantization="F32")


@pytest.fixture(scope="session")
def other(folder, words) -> Path:
    torch.manual_seed(2)
    return write_gguf(folder / "other.gguf", tiny_for(words), words, quantization="F32")


@pytest.fixture(scope="session")
def quantised(folder, words) -> Path:
    torch.manual_seed(1)
    return write_gguf(folder / "quantised.gguf", tiny_for(words), words, quantization="Q8_0")


@pytest.fixture(scope="session")
def real() -> Path:
    """SmolLM2-135M-Instruct in Q4_1."""
    return demo.smollm2_file()

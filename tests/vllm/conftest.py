"""vLLM in this process, one engine after the other: to import it takes longer than all that is decoded here."""

import os
from importlib.util import find_spec

import pytest

# Nothing is collected where vLLM is not installed: `make test-vllm` has an environment of its own.
collect_ignore_glob = [] if find_spec("vllm") else ["test_*.py"]

# What it asserts is shown too.
pytest.register_assert_rewrite("tests.vllm.members")
os.environ |= {
    "COSPEC_CACHE": "off",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@pytest.fixture(scope="session", autouse=True)
def nothing_is_compiled():
    """As an engine starts, vLLM 0.32 looks through all modules, and fails at what llvmlite has, which numba imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cospec.runner.hf.packing.can_panel", lambda dtype: False)
        yield


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """Members of one tokenizer and unequal sizes; `wide` and `drafter` pad their vocabularies otherwise."""
    from .members import write

    return write(tmp_path_factory.mktemp("models"))

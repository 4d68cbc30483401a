"""GGUF files run by llama.cpp, quantised as they are. Nothing outside this package imports llama-cpp-python."""

from .assemble import load
from .runner import LlamaCppRunner

__all__ = ["LlamaCppRunner", "load"]

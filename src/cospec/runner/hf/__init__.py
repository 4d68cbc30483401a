"""Any causal language model of transformers. Nothing outside this package imports transformers."""

from .load import LoadOptions, check_supported, load
from .runner import HfRunner

__all__ = ["HfRunner", "LoadOptions", "check_supported", "load"]

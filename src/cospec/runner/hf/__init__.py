"""Any causal language model of transformers. No other package imports transformers but `demo`'s tests."""

from .load import LoadOptions, check_supported, load
from .runner import HfRunner

__all__ = ["HfRunner", "LoadOptions", "check_supported", "load"]

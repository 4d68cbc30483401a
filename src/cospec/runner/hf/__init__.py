"""Any causal language model of transformers. Nothing outside this package imports transformers."""

from .cache import cache_argument
from .load import LoadOptions, check_supported, load
from .memory import check_memory
from .runner import HfRunner

__all__ = ["HfRunner", "LoadOptions", "cache_argument", "check_memory", "check_supported", "load"]

"""Any causal language model of transformers. Nothing outside this package imports transformers."""

from ..options import LoadOptions
from .cache import cache_argument
from .load import load, load_bundled
from .runner import HfRunner
from .support import check_supported

__all__ = ["HfRunner", "LoadOptions", "cache_argument", "check_supported", "load", "load_bundled"]

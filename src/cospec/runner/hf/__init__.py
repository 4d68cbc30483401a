"""Any causal language model of transformers. Nothing outside this package imports transformers."""

from ..options import LoadOptions
from .adapted import AdaptedRunner
from .assemble import load, load_parts
from .cache import cache_argument
from .joined import separated
from .packing import is_packed, unpacked
from .runner import HfRunner
from .support import check_supported
from .weights import storages

__all__ = [
    "AdaptedRunner",
    "HfRunner",
    "LoadOptions",
    "cache_argument",
    "check_supported",
    "is_packed",
    "load",
    "load_parts",
    "separated",
    "storages",
    "unpacked",
]

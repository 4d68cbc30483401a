"""Whether this machine has what compiled forward passes need. Where it has, that there are none is a fault."""

import ctypes
import os
from importlib.util import find_spec

import pytest
import torch


def _missing():
    if find_spec("numba") is None:
        return "numba is not installed"
    try:
        ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
    except OSError:
        return "torch's threads are not GNU's"
    has_threads = "parallel backend: OpenMP" in torch.__config__.parallel_info()
    return None if has_threads else "torch's threads are not OpenMP's"


MISSING = _missing()
needs_compiled_passes = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

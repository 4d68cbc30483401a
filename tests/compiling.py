"""Whether this machine has what compiled forward passes need. Where it has, that there are none is a fault.

As a program it compiles what tests compile, and keeps it on disk: each process of theirs would compile it at the same
time, which takes a minute and a half of a core.
"""

import ctypes
import os
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch

from cospec.core import select


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


def compile_all():
    """The loops over large vocabularies, and products and passes for weights of each type."""
    select.kernels()
    if MISSING is None:
        tiles, steps = (import_module(f"cospec.runner.hf.compiled.{name}") for name in ("tiles", "steps"))
        for stored in (*range(len(tiles.STORED)), *([tiles.PAIRED] if tiles.CAN_PAIR else [])):
            tiles._compiled(stored)
            steps._compiled(stored)


if __name__ == "__main__":
    compile_all()

"""Compiled functions on the threads that torch has: others would wait for cores that torch's keep busy."""

import ctypes
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding as llvm
import numba
import torch
from numba import types

Function = TypeVar("Function", bound=Callable[..., Any])


class NotHere(Exception):
    """What compiled functions need is not to be had here."""


def _opened() -> Any:
    """The library of torch's threads, which is loaded already."""
    if "parallel backend: OpenMP" not in torch.__config__.parallel_info():
        raise NotHere("torch's threads are not OpenMP's")
    try:
        library = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
        for name in ("omp_get_thread_num", "omp_get_num_threads", "GOMP_barrier"):
            llvm.add_symbol(name, ctypes.cast(library[name], ctypes.c_void_p).value)
        parallel = library["GOMP_parallel"]
    except (OSError, AttributeError) as error:
        raise NotHere("torch's threads are not GNU's") from error
    parallel.argtypes, parallel.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return parallel


_parallel = _opened()

# For compiled functions: the number of this thread, how many there are, and a place where each waits for all others.
thread = types.ExternalFunction("omp_get_thread_num", types.int32())
num_threads = types.ExternalFunction("omp_get_num_threads", types.int32())
barrier = types.ExternalFunction("GOMP_barrier", types.void())


def inlined(**options: Any) -> Callable[[Function], Function]:
    """A decorator: for functions that compiled ones call."""
    decorate: Callable[[Function], Function] = numba.njit(error_model="numpy", **options)
    return decorate


@inlined()
def share_of(count: int) -> Any:
    """From which to which of so many is this thread's share."""
    own, threads = thread(), num_threads()
    return count * own // threads, count * (own + 1) // threads


# Compiled functions are kept for these sources: of a function numba looks at its own file alone, and at the values of
# variables that it has from the function around it.
SOURCES = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))


def compiled(function: Callable[[Any], None]) -> int:
    """The address of a function that takes the address of whole numbers of 8 bytes; compiled, and kept on disk where
    there is a folder to write to."""
    signature = types.void(types.CPointer(types.int64))
    try:
        made = numba.cfunc(signature, cache=True)(function)
    except RuntimeError:  # no such folder
        made = numba.cfunc(signature)(function)
    address: int = made.address
    return address


def run(address: int, arguments: Sequence[int], most_threads: int) -> None:
    """Call a compiled function in torch's threads, so many at most."""
    given = (ctypes.c_int64 * len(arguments))(*arguments)
    threads = max(1, min(torch.get_num_threads(), most_threads))
    _parallel(address, ctypes.addressof(given), threads, 0)

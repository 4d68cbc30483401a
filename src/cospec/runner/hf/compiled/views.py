"""What stands at an address, as an array."""

from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .pool import inlined


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(_: Any, address: Any) -> Any:
    """An address as a pointer to float32."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(address), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _pointer_to_ids(_: Any, address: Any) -> Any:
    """An address as a pointer to int64."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(address), codegen


@inlined()
def floats(address: int, count: int) -> Any:
    """So many float32 at an address."""
    return numba.carray(_pointer(address), (count,))


@inlined()
def matrix(address: int, count: int, dim: int) -> Any:
    """So many rows of float32, [count, dim]."""
    return numba.carray(_pointer(address), (count, dim))


@inlined()
def ids(address: int, count: int) -> Any:
    """So many int64 at an address."""
    return numba.carray(_pointer_to_ids(address), (count,))


@inlined()
def group(address: int, index: int, size: int) -> Any:
    """One of groups of so many int64."""
    return ids(address + 8 * index * size, size)

"""The rows that products take: float32 as they are computed, or a copy of them in bfloat16."""

from typing import Any

import numba

from .pool import inlined
from .tiles import PAIRED, rounded


@inlined()
def keep_factors(stored: int, args: Any, row: int, begin: int, source: int, count: int) -> None:
    """Of so many numbers of a row, from a column and from an address on, what the next product takes."""
    numba.literally(stored)
    rounded(stored, source, args.factors + 2 * (args.factors_width * row + begin), count)


@inlined()
def factors_of(stored: int, args: Any, rows: Any) -> Any:
    """Address and bytes from row to row of what a product takes. rows: those of float32."""
    numba.literally(stored)
    if stored == PAIRED:
        return args.factors, 2 * args.factors_width
    return rows

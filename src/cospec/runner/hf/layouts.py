"""In which layout a decoder's products are the fastest on this machine, and for how many tokens: measured once.

Kernels differ by more than their arithmetic: a packed product of one token may take longer than one of four, and in
float32 weights as they stand in [in, out] may be read faster than packed ones. What was measured is kept, so that
another process computes the same bits.
"""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...errors import CospecError
from ...machine import cache_folder, described
from ...resume import digest
from ...storage import keep, to_json
from .invariant import Sizes
from .panels import PanelLinear, can_panel
from .prepacked import PrepackedLinear, TransposedLinear

FORMAT = 3
# Fewer tokens than the last of these may be filled up.
SIZES = (1, 2, 3, 4, 5, 6, 7, 8)
# A layout is judged by so many passes of a token for one that checks so many.
PLAIN, CHECKED = 3, 5
# Filling up must gain more than noise.
LEAST_GAIN = 0.05
# Weights measured together: more than a cache holds, as those of a large model are.
MOST_BYTES = 2**26
ROUNDS = 5
_KINDS: dict[str, type[PrepackedLinear]] = {
    "packed": PrepackedLinear,
    "transposed": TransposedLinear,
    "panels": PanelLinear,
}

Shapes = tuple[tuple[int, int], ...]
"""[out, in] of each of a layer's products."""


@dataclass(frozen=True)
class Layout:
    """kind: of the products, None for those of torch. sizes: the numbers of tokens that passes are filled up to."""

    kind: type[PrepackedLinear] | None
    sizes: Sizes


@cache
def fastest(shapes: Shapes, num_layers: int, dtype: torch.dtype) -> Layout:
    """The layout for a decoder of so many layers; `can_prepack` its type."""
    names = [name for name, kind in _KINDS.items() if kind is not PanelLinear or can_panel(dtype)]
    binding = {
        "format": FORMAT,
        "torch": torch.__version__,
        "machine": described(),
        "dtype": str(dtype),
        "kinds": names,
        "layers": num_layers,
        "shapes": [[*shape] for shape in shapes],
    }
    folder = cache_folder()
    file = None if folder is None else folder / "layouts" / f"{digest(binding).partition(':')[2]}.json"
    if file is not None:
        with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
            kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if kept["binding"] == binding:
                return Layout(_KINDS[kept["kind"]], Sizes((*map(int, kept["sizes"]),)))
    times = {name: _times(_products(_KINDS[name], shapes, num_layers, dtype)) for name in names}
    name = min(times, key=lambda name: _cost(times[name]))
    sizes = _worth_filling(times[name])
    if file is not None:
        with suppress(CospecError):
            keep(file, to_json({"binding": binding, "kind": name, "sizes": sizes}))
    return Layout(_KINDS[name], Sizes(sizes))


def _products(
    kind: type[PrepackedLinear], shapes: Shapes, num_layers: int, dtype: torch.dtype
) -> list[tuple[PrepackedLinear, Tensor]]:
    """Products as a decoder's, of MOST_BYTES at most, and the most tokens that they are measured with."""
    of_layer = sum(rows * columns for rows, columns in shapes) * dtype.itemsize
    share = min(1.0, MOST_BYTES / of_layer)
    made = []
    for rows, columns in shapes * max(1, min(num_layers, MOST_BYTES // of_layer)):
        weight = torch.ones(max(1, int(rows * share)), columns, dtype=dtype)
        made.append((kind(weight, None), torch.ones(SIZES[-1], columns, dtype=dtype)))
    return made


@torch.inference_mode()
def _times(products: Sequence[tuple[PrepackedLinear, Tensor]]) -> dict[int, float]:
    """Seconds that all products take for each number of tokens: the least of a few rounds."""
    times: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(ROUNDS):
        for size, own in times.items():
            started = time.perf_counter()
            for product, x in products:
                product.forward(x[:size])
            own.append(time.perf_counter() - started)
    return {size: min(own) for size, own in times.items()}


def _cost(times: dict[int, float]) -> float:
    return PLAIN * min(times.values()) + min(own for size, own in times.items() if size >= CHECKED)


def _worth_filling(times: dict[int, float]) -> tuple[int, ...]:
    """The sizes that no larger one beats."""
    return tuple(
        size
        for size, own in times.items()
        if own * (1 - LEAST_GAIN) <= min((other for more, other in times.items() if more > size), default=own)
    )

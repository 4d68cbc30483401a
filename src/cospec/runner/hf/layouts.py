"""In which layout a decoder's products are the fastest on this machine, and for how many tokens: measured once.

Kernels differ by more than their arithmetic: a packed product of one token may take longer than one of four, and in
float32 weights as they stand in [in, out] may be read faster than packed ones. And a pass of products in panels is
compiled as a whole, which saves what lies between the products. What was measured is kept, so that another process
computes the same bits.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ...errors import CospecError
from ...machine import cache_folder, described
from ...resume import digest
from ...storage import keep, to_json
from ..protocol import Feed
from .compiled.forward import CompiledForward, can_compile
from .cut import first_layers, with_head_of
from .forward import Forward
from .fused import PRODUCTS, FusedForward
from .invariant import Sizes
from .joined import join
from .packing import FEWEST_WEIGHTS, kinds, packing
from .panels import PanelLinear
from .prepacked import PrepackedLinear, TransposedLinear
from .resident import trim
from .runner import HfRunner

logger = logging.getLogger(__name__)

# Of what is kept: raised with the kernels, whose speeds it stands for.
FORMAT = 4
# Fewer tokens than the last of these may be filled up.
SIZES = (1, 2, 3, 4, 5, 6, 7, 8)
# Tokens of a pass that reads a prompt.
PROMPT = 64
# A layout is judged by so many passes of a token for one that checks so many; and by prompts, of which some 200 tokens
# are read for 100 passes: 3 passes of PROMPT tokens for 25 times four passes.
PLAIN, CHECKED, SHARE_OF_PROMPTS = 3, 5, 0.12
# Filling up must gain more than noise.
LEAST_GAIN = 0.05
# Bytes of weights that are measured together: more than a cache holds, as those of a large model are.
MOST_BYTES = 2**26
ROUNDS = 5
# Tokens that the measured ones stand behind.
_BEHIND = 32
# Columns of the head of a model that is measured: hardly any, since a head takes much of the time of a few layers.
_COLUMNS = 8
_KINDS: dict[str, type[PrepackedLinear]] = {
    "packed": PrepackedLinear,
    "transposed": TransposedLinear,
    "panels": PanelLinear,
}

# By the digest of what they depend on.
_known: dict[str, "Layout"] = {}


@dataclass(frozen=True)
class Layout:
    """kind: of the products, None for those of torch. sizes: the numbers of tokens that passes are filled up to."""

    kind: type[PrepackedLinear] | None
    sizes: Sizes = field(default_factory=lambda: Sizes(()))


def join_products(model: PreTrainedModel, *, is_invariant: bool = False) -> Layout:
    """Join what each layer's products stand on, in the layout that is the fastest here, which is returned. model: as
    `can_fuse` accepts.

    is_invariant: it may not depend on a measurement.
    """
    linears = [model.model.layers[0].get_submodule(name) for names in PRODUCTS.values() for name in names]
    if any(type(linear) is not nn.Linear for linear in linears):
        return Layout(None)
    is_small = all(linear.weight.numel() < FEWEST_WEIGHTS for linear in linears)
    kind = packing(model.dtype)
    if is_invariant and PanelLinear in kinds(model.dtype):
        # Their rows are invariant by themselves, whatever a pass feeds.
        kind = PanelLinear
    elif is_small and kind is not PanelLinear and (model.dtype == torch.float32 or kind is None):
        # They lie in a cache while they are measured, and not between the passes of a text: packed ones seem too fast.
        kind = TransposedLinear
    layout = fastest(model) if kind is PrepackedLinear and not is_invariant else Layout(kind)
    if layout.kind is not None:
        _join(model, layout.kind)
    return layout


def _join(model: PreTrainedModel, kind: type[PrepackedLinear]) -> None:
    join([(layer, names) for layer in model.model.layers for names in PRODUCTS.values()], kind)


def fastest(model: PreTrainedModel) -> Layout:
    """The layout for a decoder that `can_fuse` accepts, and whose type `can_prepack`."""
    names = [name for name, kind in _KINDS.items() if kind in kinds(model.dtype)]
    binding = {
        "format": FORMAT,
        "torch": torch.__version__,
        "machine": described(),
        "dtype": str(model.dtype),
        "kinds": names,
        "layers": len(model.model.layers),
        "heads": [model.config.num_attention_heads, model.config.num_key_value_heads],
        "shapes": _shapes(model),
    }
    key = digest(binding).partition(":")[2]
    if key not in _known:
        _known[key] = _kept_or_measured(model, names, binding, key)
    return _known[key]


def _shapes(model: PreTrainedModel) -> list[list[int]]:
    """[out, in] of each of a layer's products."""
    layer = model.model.layers[0]
    linears = [[layer.get_submodule(name) for name in names] for names in PRODUCTS.values()]
    return [[sum(linear.out_features for linear in own), own[0].in_features] for own in linears]


def _kept_or_measured(model: PreTrainedModel, names: Sequence[str], binding: dict[str, Any], key: str) -> Layout:
    folder = cache_folder()
    file = None if folder is None else folder / "layouts" / f"{key}.json"
    if file is not None:
        with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
            kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if kept["binding"] == binding:
                return Layout(_KINDS[kept["kind"]], Sizes((*map(int, kept["sizes"]),)))
    times: dict[str, dict[int, float]] = {}
    for name in names:
        try:
            times[name] = _times(model, _KINDS[name])
        except Exception:  # of one kind's own; the others remain
            logger.debug("no pass of %s products", name, exc_info=True)
        trim()
    if not times:
        return Layout(PrepackedLinear)
    sizes_of = {name: () if _KINDS[name] is PanelLinear else _worth_filling(own) for name, own in times.items()}
    name = min(times, key=lambda name: _cost(times[name], sizes_of[name]))
    sizes = sizes_of[name]
    # What fails here may go well at another time.
    if file is not None and len(times) == len(names):
        with suppress(CospecError):
            keep(file, to_json({"binding": binding, "kind": name, "sizes": sizes}))
    return Layout(_KINDS[name], Sizes(sizes))


@torch.inference_mode()
def _times(model: PreTrainedModel, kind: type[PrepackedLinear]) -> dict[int, float]:
    """Seconds that passes of the first layers take for each number of tokens: the least of a few rounds."""
    of_layer = sum(rows * columns for rows, columns in _shapes(model)) * model.dtype.itemsize
    num_layers = max(1, min(len(model.model.layers), MOST_BYTES // of_layer))
    part = with_head_of(first_layers(model, num_layers), range(_COLUMNS))
    _join(part, kind)
    runner = HfRunner(part, forward=_pass(part))
    # No more tokens than the model takes.
    room = runner.context or _BEHIND + PROMPT
    prompt = min(PROMPT, room - 1)
    behind = min(_BEHIND, room - prompt)
    slot = runner.open()
    runner.feed([Feed(slot, [0] * behind, 0)])
    times: dict[int, list[float]] = {size: [] for size in (*SIZES, PROMPT)}
    for _ in range(ROUNDS):
        for size, own in times.items():
            started = time.perf_counter()
            runner.feed([Feed(slot, [0] * min(size, prompt), 1 if size == PROMPT else size)])
            own.append(time.perf_counter() - started)
            runner.trim(slot, behind)
    return {size: min(own) for size, own in times.items()}


def _pass(model: PreTrainedModel) -> Forward:
    """The pass that a model of these products has."""
    fused = FusedForward(model)
    return CompiledForward(model, fused) if can_compile(model) else fused


def _cost(times: Mapping[int, float], sizes: Sequence[int]) -> float:
    """sizes: the numbers of tokens that passes are filled up to."""
    one, checked = (times[next((size for size in sizes if size >= count), count)] for count in (1, CHECKED))
    return PLAIN * one + checked + SHARE_OF_PROMPTS * times[PROMPT]


def _worth_filling(times: Mapping[int, float]) -> tuple[int, ...]:
    """The sizes that no larger one beats."""
    return tuple(
        size
        for size in SIZES
        if times[size] * (1 - LEAST_GAIN) <= min((times[more] for more in SIZES if more > size), default=times[size])
    )

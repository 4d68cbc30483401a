"""From a model's name to a runner: a whole model, its first layers or some of its tokens, an adapter on either, or a
drafting head.

What several of them stand on is loaded once, within a pool.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ... import demo
from ...errors import CospecError, InvalidEnsemble, ModelNotFound, UnsupportedModel
from ..options import TRANSFORMERS, LoadOptions
from ..parts import ADVICE, Parts, local_folder, parts_of
from ..pool import pooled
from ..schemes import DEFAULT, split
from .adapted import AdaptedRunner
from .adapter import Adapter, misfits, read_adapter
from .checkpoint import called
from .cut import first_layers, with_head_of
from .heads import HeadRunner, read_head
from .load import explained, load_whole, read_tokenizer
from .location import locate
from .proof import prove
from .runner import HfRunner
from .support import distance, tolerance

Loaded = HfRunner | AdaptedRunner | HeadRunner


def load(model: str, options: LoadOptions) -> Loaded:
    """The runner of a local folder or hub id: a model, or an adapter on one, or the part that the options say, or a
    drafting head.

    Raises ModelNotFound, UnsupportedModel, DoesNotFit, InvalidEnsemble for more layers or tokens than the model has,
    and MissingExtra where a package is not installed that reads it.
    """
    return load_parts(model, options, parts_of(model, options, local_folder(model) or located(model, options)))


def load_parts(model: str, options: LoadOptions, parts: Parts) -> Loaded:
    """The same of a model whose parts are known. Raises as `load` does, but for what its parts raise."""
    runner: Loaded
    if parts.head is not None:
        with explained(model, parts.head.folder):
            runner = read_head(model, parts.head, _base(model, parts, "a drafting head for"))
    elif parts.adapter is None:
        runner = _part(model, _whole(parts.whole, parts.options), parts)
    else:
        with explained(model, parts.adapter):
            runner = _adapted(model, parts, parts.adapter, options)
    runner.acceptance = parts.acceptance
    return runner


def located(model: str, options: LoadOptions) -> Path:
    """The GGUF file or folder of a model, looked for once within a pool. Raises ModelNotFound."""
    return pooled(("path", model, options), lambda: locate(model, options))


def _whole(model: str, options: LoadOptions) -> HfRunner:
    path = located(model, options)
    # A file is one by whatever name.
    same = replace(options, gguf_file=None, backend=TRANSFORMERS)
    return pooled(("whole", os.path.realpath(path), same), lambda: load_whole(model, options, path))


def _base(model: str, parts: Parts, kind: str = "an adapter of") -> HfRunner:
    """The whole model under an adapter or head. Raises ModelNotFound, with what to do, where it is not there."""
    scheme, rest = split(parts.whole)
    if demo.is_demo(parts.whole):
        rest = demo.model_path(parts.whole)
    elif scheme != DEFAULT:
        raise UnsupportedModel(f"{model!r} is {kind} {parts.whole!r}, which is no model of transformers; {ADVICE}")
    try:
        return _whole(rest, parts.options)
    except ModelNotFound as error:
        raise ModelNotFound(f"{model!r} is {kind} {parts.whole!r}, which is not to be had: {error}; {ADVICE}") from None


def _part(model: str, whole: HfRunner, parts: Parts) -> HfRunner:
    """What is asked for of the model, with a cache of its own; the whole one itself where that is all of it."""
    num_layers = whole.model.config.get_text_config().num_hidden_layers
    if parts.layers is not None and parts.layers > num_layers:
        raise InvalidEnsemble(
            f"{model!r} has {num_layers} layers, and layers is {parts.layers}; give 1 to {num_layers}"
        )
    layers = None if parts.layers == num_layers else parts.layers
    ids = None if parts.vocabulary is None else _tokens(model, whole, parts.vocabulary)
    if layers is None and ids is None:
        return whole
    return pooled(("part", id(whole), layers, ids), lambda: _cut(model, whole, layers, ids))


def _cut(model: str, whole: HfRunner, layers: int | None, ids: tuple[int, ...] | None) -> HfRunner:
    cut = whole.model if layers is None else first_layers(whole.model, layers)
    cut = cut if ids is None else with_head_of(cut, ids)
    runner = HfRunner(cut, whole.tokenizer, whole.shapes, whole.forward.part(cut), vocabulary=ids)
    if whole.blocks is not None:
        # Fewer layers, or another head, are other products.
        runner.blocks = prove(model, runner)
    return runner


def _tokens(model: str, whole: HfRunner, wanted: int | Sequence[int]) -> tuple[int, ...]:
    """Ids in ascending order: those listed, or the first `wanted`, which merge most often, and the ends among them."""
    size = whole.vocab_size
    if not isinstance(wanted, int):
        if max(wanted) >= size:
            raise UnsupportedModel(f"{model!r} has {size} tokens, and its vocabulary lists the id {max(wanted)}")
        return tuple(sorted(wanted))
    if wanted > size:
        raise InvalidEnsemble(f"{model!r} has {size} tokens, and vocabulary is {wanted}; give 1 to {size}")
    ends = [token for token in whole.end_ids if token < size][:wanted]
    others = [token for token in range(size) if token not in ends]
    return tuple(sorted([*ends, *others[: wanted - len(ends)]]))


def _adapted(model: str, parts: Parts, folder: Path, options: LoadOptions) -> AdaptedRunner:
    """The adapter's view of its base, whose passes it joins. Raises UnsupportedModel where it is of another base."""
    whole = _base(model, parts)
    like = torch.empty(0, dtype=whole.model.dtype, device=whole.model.device)
    adapter = read_adapter(model, folder, options, like)
    if wrong := next(misfits(adapter, whole.model), None):
        raise UnsupportedModel(
            f"{called(model, folder)} is an adapter of another model than {parts.whole!r}: {wrong}; {ADVICE}"
        )
    base = _part(model, whole, parts)
    adapter = adapter.within(base.model, base.vocabulary)
    before = base.adapters
    base.adapt([*before, adapter])
    try:
        _check_adapter(model, base, adapter)
        if base.blocks is not None:
            # Those of the adapters before it were proven then.
            base.blocks = base.blocks.common(prove(model, base))
    except CospecError:
        base.adapt(before)
        raise
    return AdaptedRunner(base, adapter, read_tokenizer(model, folder, options))


def _check_adapter(model: str, base: HfRunner, adapter: Adapter) -> None:
    """Raises UnsupportedModel unless ragged batches of tokens with the adapter and without give the right logits."""
    off = distance(base.model, base.forward, (len(base.adapters), adapter))
    allowed = tolerance(base.model)
    if not off < allowed:
        raise UnsupportedModel(
            f"{model!r} is an adapter that gives other logits in batches with its base (off by {off:.2g} of their "
            f"spread, allowed {allowed:g}); merge it once with its base, and give that"
        )

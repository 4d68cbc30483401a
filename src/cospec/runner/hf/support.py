"""Which models can be decoded exactly: refused by their configuration, or tested by a probe as they are loaded.

The probe feeds a model in ragged batches, rolls it back, and compares its logits with those of an unbatched pass.
"""

import inspect
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel

from ...errors import UnsupportedModel, one_line
from ..protocol import Feed
from .adapter import Adapter
from .forward import Forward
from .invariant import Blocks
from .lowrank import ModuleTerms, RowAdapters
from .masks import ATTENTION, RECURRENT, STATELESS
from .runner import HfRunner
from .updates import has_known_update, has_state
from .wrapped import is_wrapper

_ALIBI = "biases attention by distance (ALiBi), which is not known to hold in ragged batches"
_REFUSED = {
    "bloom": _ALIBI,
    "mpt": _ALIBI,
    "gpt_neo": "has local attention whose window it counts from the end of the batch, not of each text",
}
_RECURRENT = "keeps a recurrent state by an update that is not known here, so that it cannot be rolled back"
_CHOOSE = (
    "choose a model whose layers are attention with rotary or learned positions, gated delta nets, Mamba-2, or short "
    "convolutions"
)


def refuse_by_config(name: str, config: PreTrainedConfig) -> None:
    """Raises UnsupportedModel for architectures known not to work, before weights are read."""
    text = config.get_text_config()
    reason = _REFUSED.get(text.model_type)
    is_known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or is_wrapper(config) or getattr(config, "auto_map", None)
    others = set(getattr(text, "layer_types", None) or ()) - ATTENTION - RECURRENT - STATELESS
    if not is_known or getattr(config, "is_encoder_decoder", False):
        reason = "is no causal language model that transformers knows"
    elif getattr(text, "alibi", False):
        reason = _ALIBI
    elif _has_unknown_state(MODEL_FOR_CAUSAL_LM_MAPPING.get(type(text), None), text):
        reason = _RECURRENT
    elif others:
        reason = f"has layers of type {', '.join(sorted(others))}, which are not known to be rolled back exactly"
    if reason is not None:
        raise UnsupportedModel(f"{name!r} ({config.model_type}) {reason}; {_CHOOSE}")


def _has_unknown_state(model_class: Any, text: PreTrainedConfig) -> bool:
    """Whether a class of models keeps a state that is more than convolutions' windows, and is not updated as known."""
    if model_class is None or not has_state(model_class, text):
        return False
    source = inspect.getsource(sys.modules[model_class.__module__])
    has_windows_alone = "update_conv_state" in source and "update_recurrent_state" not in source
    return not (has_windows_alone or has_known_update(model_class.__module__))


def check_supported(name: str, model: PreTrainedModel) -> None:
    """Raises UnsupportedModel unless ragged, rolled-back feeding gives the logits of an unbatched forward pass."""
    architecture = model.config.model_type
    if _has_unknown_state(type(model), model.config.get_text_config()):
        raise UnsupportedModel(f"{name!r} ({architecture}) {_RECURRENT}; {_CHOOSE}")
    try:
        measured = distance(model)
    except Exception as error:  # whatever the model raises, it cannot be run
        raise UnsupportedModel(
            f"{name!r} ({architecture}) cannot be run on cospec's cache: {one_line(error)}; choose other options of "
            "loading, or another model"
        ) from error
    if not math.isfinite(measured):
        raise UnsupportedModel(f"{name!r} ({architecture}) {_why_not_finite(model)}")
    allowed = tolerance(model)
    if not measured < allowed:
        raise UnsupportedModel(
            f"{name!r} ({architecture}) gives other logits in ragged batches with rollback "
            f"(off by {measured:.2g} of their spread, allowed {allowed:g}); {_CHOOSE}"
        )


def tolerance(model: PreTrainedModel) -> float:
    """The largest `distance` that is put down to rounding, which in half precision, and in the products of quantised
    weights, depends on the shape of a pass. A wrong mask or position changes logits by far more."""
    is_wide = model.dtype in (torch.float32, torch.float64) and not getattr(model, "is_quantized", False)
    return 1e-3 if is_wide else 0.2


@torch.inference_mode()
def distance(
    model: PreTrainedModel,
    forward: Forward | None = None,
    adapter: tuple[int, Adapter] | None = None,
    blocks: Blocks | None = None,
) -> float:
    """Mean distance of ragged, rolled-back logits from those of an unbatched pass without a cache, divided by the
    standard deviation of the latter; of two sequences the larger.

    forward: the pass to test, the model's own by default. adapter: of the first sequence, and its number in that pass;
    the other has none. blocks: the shapes that passes keep to, None for their own.
    """
    runner = HfRunner(model, forward=forward, blocks=blocks)
    number = 0 if adapter is None else adapter[0]
    size = min(runner.vocab_size, 1000)
    # States are rolled back twice, and fed more at once than is kept for a rollback, with padding in the other row.
    lengths, rollbacks = ((50, 9), (3, 5)) if has_state(model) else ((11, 6), (3,))
    sequences = [[(7 * i + 3) % size for i in range(lengths[0])], [(5 * i + 1) % size for i in range(lengths[1])]]
    slots = [runner.open(number), runner.open()]
    first = runner.feed([Feed(slot, tokens[:4], 1) for slot, tokens in zip(slots, sequences, strict=True)])
    for kept in rollbacks:
        texts = [tokens[slot.length : kept] for slot, tokens in zip(slots, sequences, strict=True)]
        runner.feed([Feed(slots[0], [*texts[0], 1, 1, 1], 1), Feed(slots[1], [*texts[1], 2], 1)])
        for slot in slots:
            runner.trim(slot, kept)
    rows = runner.feed(
        [
            Feed(slot, tokens[kept:-1], len(tokens) - 1 - kept, settled=len(tokens))
            for slot, tokens in zip(slots, sequences, strict=True)
        ]
    )
    last = [runner.feed([Feed(slot, tokens[-1:], 1)])[0] for slot, tokens in zip(slots, sequences, strict=True)]
    with _adapted(model, adapter):
        of_first = _distance(model, sequences[0], first[0], rows[0], last[0])
    return max(of_first, _distance(model, sequences[1], first[1], rows[1], last[1]))


@contextmanager
def _adapted(model: PreTrainedModel, adapter: tuple[int, Adapter] | None) -> Iterator[None]:
    """Within it, the model's own pass is that of the adapter."""
    terms = ModuleTerms(model)
    terms.adapt([adapter[1].copy()] if adapter is not None else [])
    try:
        with terms.applied(None if adapter is None else RowAdapters.of([1], model.device)):
            yield
    finally:
        terms.remove()


def _distance(model: PreTrainedModel, tokens: list[int], first: Tensor, rows: Tensor, last: Tensor) -> float:
    """first: the row after the fourth token. rows, last: those after the last tokens."""
    measured = torch.cat([first, rows, last])
    logits = model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).logits[0]
    plain = torch.cat([logits[3:4], logits[1 - measured.shape[0] :]])[:, : measured.shape[1]].float()
    return float((plain - measured).abs().mean() / (plain.std() + 1e-9))


@torch.inference_mode()
def _why_not_finite(model: PreTrainedModel) -> str:
    """Where in an ordinary forward pass the first value arises that is NaN or infinite, and what to do."""
    found: list[str] = []

    def note(name: str, _module: object, _args: object, output: object) -> None:
        values = output[0] if isinstance(output, tuple) else output
        if isinstance(values, Tensor) and not values.isfinite().all():
            found.append(name)

    hooks = [module.register_forward_hook(partial(note, name)) for name, module in model.named_modules() if name]
    try:
        model(input_ids=torch.tensor([[0, 1, 2, 3]], device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    where = f" from {found[0]!r} on" if found else ""
    half = model.dtype == torch.float16
    advice = "set dtype to float32 or bfloat16, if float16 overflows, or " if half else ""
    return f"gives logits that are NaN or infinite{where}: {advice}load weights that are whole, or choose another model"

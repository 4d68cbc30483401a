"""From a path or hub id to a runner: weights, tokenizer, and the fastest forward pass that gives the right logits."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ... import demo
from ...errors import CospecError, ModelNotFound, UnsupportedModel
from ..options import LoadOptions, device_of, dtype_of, is_on_cuda
from ..protocol import Feed
from .forward import Forward, ModelForward
from .fused import FusedForward, can_fuse
from .graphs import NUM_UNCAPTURED, Shapes
from .prepacked import is_native, prepack
from .runner import HfRunner
from .support import check_supported, distance, one_line, refuse_by_config, tolerance
from .tokenizer import HfTokenizer

logger = logging.getLogger(__name__)

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "spiece.model")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def load(model: str, options: LoadOptions) -> HfRunner:
    """The runner of a local folder or hub id. Raises ModelNotFound or UnsupportedModel."""
    path = os.path.expanduser(model)
    # A name with one slash that is no folder here is a hub id.
    if path.startswith((".", "/")) or path.count("/") != 1 or Path(path).exists():
        _check_folder(model, Path(path), options)
    with _explained(model):
        config = AutoConfig.from_pretrained(path, trust_remote_code=options.trust_remote_code)
        refuse_by_config(model, config)
        weights = _weights(model, path, config, options)
        tokenizer = None
        if not Path(path).is_dir() or any((Path(path) / name).exists() for name in _TOKENIZER_FILES):
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=options.trust_remote_code)
    _warn_if_slow(model, weights)
    if prepack(weights):
        # One tensor that lies in a mapped file keeps all of it in memory, beside the prepacked copy. So what was not
        # prepacked is copied out of the file.
        for tensor in (*weights.parameters(), *weights.buffers()):
            tensor.data = tensor.data.clone()
    forward = _forward(model, weights)
    shapes = _shapes(model, weights, options)
    return HfRunner(weights, HfTokenizer(tokenizer) if tokenizer is not None else None, shapes, forward)


def load_bundled(name: str, options: LoadOptions) -> HfRunner:
    """The runner of a bundled model: `math` for `demo:math`. Raises UnknownName."""
    return load(demo.model_path(demo.PREFIX + name), options)


def _warn_if_slow(name: str, model: PreTrainedModel) -> None:
    """Log where the CPU does not multiply in the model's type: each pass then converts all weights."""
    if model.device.type == "cpu" and not is_native(model.dtype):
        dtype = str(model.dtype).removeprefix("torch.")
        logger.warning(
            "%s computes in %s, in which this CPU does not multiply: in float32 it would be several times as fast, "
            "and take twice the memory",
            name,
            dtype,
        )


def _forward(name: str, model: PreTrainedModel) -> Forward:
    """The fastest forward pass that gives the model's logits. Raises UnsupportedModel if there is none."""
    if can_fuse(model):
        try:
            forward = FusedForward(model)
            if distance(model, forward) < tolerance(model):
                return forward
        except Exception:  # weights may be of any type, and not all can be joined; the model's own pass is tested below
            logger.debug("%s cannot be fused", name, exc_info=True)
    check_supported(name, model)
    return ModelForward(model)


def _shapes(name: str, model: PreTrainedModel, options: LoadOptions) -> Shapes:
    """The shapes that `graphs` asks for. Raises UnsupportedModel where captured graphs are demanded and impossible."""
    if options.graphs == "shapes":
        return Shapes.FIXED
    if not options.graphs or not is_on_cuda(options):
        return Shapes.AS_GIVEN
    reason = _why_not_captured(model)
    if reason is None:
        return Shapes.CAPTURED
    if options.graphs is True:
        raise UnsupportedModel(f"{name!r} ({model.config.model_type}) {reason}; set graphs to auto or false")
    return Shapes.AS_GIVEN


def _why_not_captured(model: PreTrainedModel) -> str | None:
    """Feed a few tokens one by one, until the pass is replayed, and compare the last row with an ordinary one's."""
    rows = []
    try:
        for shapes in (Shapes.AS_GIVEN, Shapes.CAPTURED):
            runner = HfRunner(model, shapes=shapes)
            slot = runner.open()
            rows.append([runner.feed([Feed(slot, [token], 1)])[0] for token in range(NUM_UNCAPTURED + 3)][-1])
    except Exception as error:  # a model may do anything that no graph can
        return f"cannot be captured as a CUDA graph: {one_line(error)}"
    off = float((rows[0] - rows[1]).abs().mean() / (rows[0].std() + 1e-9))
    if off < tolerance(model):
        return None
    return f"gives other logits from a CUDA graph (off by {off:.2g} of their spread)"


def _weights(name: str, path: str, config: PreTrainedConfig, options: LoadOptions) -> PreTrainedModel:
    """The model on its device, in its type. Raises UnsupportedModel where weights are missing."""
    device = device_of(options)
    quantised: dict[str, object] = {}
    if options.quantization:
        quantised["quantization_config"] = dict(options.quantization)
    is_quantised = bool(options.quantization or getattr(config, "quantization_config", None))
    if is_quantised and device != "cpu":
        # A model that is quantised as it is loaded cannot always be moved to a device later.
        quantised["device_map"] = {"": device}
    with _no_progress_bars():
        answer: Any = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype_of(options, getattr(config, "dtype", None) or torch.float32),
            use_safetensors=None if options.allow_pickle else True,
            trust_remote_code=options.trust_remote_code,
            output_loading_info=True,
            **quantised,
        )
    model, info = answer
    missing = sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])
    if missing:
        raise UnsupportedModel(
            f"{name!r} ({config.model_type}) lacks {len(missing)} of its weights, the first being {missing[0]!r}; "
            "download it again, or give the folder of a causal language model"
        )
    weights: PreTrainedModel = model if is_quantised else model.to(device)
    return weights


def _check_folder(name: str, folder: Path, options: LoadOptions) -> None:
    """Raises ModelNotFound for a folder that is not there, holds no model, or holds weights as pickles alone."""
    advice = "give a folder with config.json and safetensors, or a hub id (owner/name)"
    if not folder.is_dir():
        raise ModelNotFound(f"no model folder at {name!r}; {advice}")
    if not (folder / "config.json").exists():
        raise ModelNotFound(f"the folder {name!r} has no config.json; {advice}")
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles and not options.allow_pickle and not any(folder.glob("*.safetensors")):
        raise ModelNotFound(
            f"{name!r} stores its weights only as pickle ({pickles[0]}), which can run code when it is read; "
            "convert them to safetensors, or set allow_pickle if you trust their source"
        )


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Whatever transformers raises becomes a CospecError."""
    try:
        yield
    except CospecError:
        raise
    except OSError as error:
        raise ModelNotFound(f"model {name!r} cannot be read: {one_line(error)}") from error
    except Exception as error:  # transformers and the libraries under it may raise anything
        raise UnsupportedModel(f"model {name!r} cannot be loaded: {one_line(error)}") from error


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Without transformers' progress bar, which it draws on standard error for every model that it loads."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]

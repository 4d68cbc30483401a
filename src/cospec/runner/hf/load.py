"""From a path or hub id to a runner: what cannot be exact is refused by name, before anything is generated."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from ...errors import CospecError, InvalidEnsemble, ModelNotFound, UnsupportedModel
from ..protocol import Feed
from .forward import Forward, ModelForward
from .graphs import NUM_UNCAPTURED, Shapes
from .lean import LeanForward, can_be_lean
from .packed import is_native, pack
from .probe import distance
from .runner import HfRunner
from .tokenizer import HfTokenizer

logger = logging.getLogger(__name__)

_DTYPES = {
    "float32": torch.float32, "fp32": torch.float32,
    "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float16": torch.float16, "fp16": torch.float16,
    "float64": torch.float64,
}  # fmt: skip
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "spiece.model")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
_ALIBI = "biases attention by distance (ALiBi), which is not known to hold in ragged batches"
_REFUSED = {
    "bloom": _ALIBI,
    "mpt": _ALIBI,
    "gpt_neo": "has local attention whose window it counts from the end of the batch, not of each text",
}
_RECURRENT = "keeps a recurrent state, which cannot be rolled back"
_CHOOSE = "choose a model whose layers are all attention with rotary or learned positions"


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a model is loaded. Models of equal path and options are loaded once.

    dtype: a name such as "bfloat16", or "auto": as stored on CUDA, and on a CPU as stored if it computes in that
    type natively, else float32. device: "cpu", "cuda", "cuda:1", ...; None for CUDA where there is one.
    quantization: arguments of transformers' quantisation configuration, passed through.
    trust_remote_code: whether code shipped with the weights may run. allow_pickle: whether weights that are not
    safetensors may be read. graphs: whether decode calls are captured as CUDA graphs; "auto" where the device is CUDA
    and the model allows it, "shapes" for the padding to few shapes alone, on any device.
    """

    dtype: str | torch.dtype = "auto"
    device: str | None = None
    quantization: Mapping[str, object] = field(default_factory=dict)
    trust_remote_code: bool = False
    allow_pickle: bool = False
    graphs: bool | str = "auto"

    def __post_init__(self) -> None:
        if self.dtype != "auto" and _DTYPES.get(str(self.dtype).removeprefix("torch.")) is None:
            raise InvalidEnsemble(f"dtype {self.dtype!r} is not known; use auto, {', '.join(_DTYPES)}")
        if self.device is not None:
            _check_device(self.device)
        if not isinstance(self.graphs, bool) and self.graphs not in ("auto", "shapes"):
            raise InvalidEnsemble(f"graphs {self.graphs!r} is not known; use auto, shapes, true or false")
        if self.graphs is True and not _is_on_cuda(self):
            raise InvalidEnsemble("graphs can only be captured on a CUDA device; use auto, shapes or false")


def load(model: str, options: LoadOptions) -> HfRunner:
    """The runner of a local folder or hub id. Raises ModelNotFound, UnsupportedModel or InvalidEnsemble."""
    path = os.path.expanduser(model)
    if _looks_local(path):
        _check_folder(model, Path(path), options)
    with _explained(model):
        config = AutoConfig.from_pretrained(path, trust_remote_code=options.trust_remote_code)
        _refuse_by_config(model, config)
        weights = _weights(model, path, config, options)
        tokenizer = None
        if _has_tokenizer(path):
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=options.trust_remote_code)
    _warn_if_slow(model, weights)
    if pack(weights):
        _let_file_go(weights)
    forward = _forward(model, weights)
    shapes = _shapes(model, weights, options)
    return HfRunner(weights, HfTokenizer(tokenizer) if tokenizer is not None else None, shapes, forward)


def _warn_if_slow(name: str, model: PreTrainedModel) -> None:
    """Each weight is converted by every call where a CPU does not multiply in its type."""
    if model.device.type == "cpu" and not is_native(model.dtype):
        dtype = str(model.dtype).removeprefix("torch.")
        logger.warning(
            "%s computes in %s, in which this CPU does not multiply: in float32 it would be several times as fast, "
            "and take twice the memory",
            name,
            dtype,
        )


def _let_file_go(model: PreTrainedModel) -> None:
    """Copy what packing left where it was read: one tensor that lies in a mapped file holds all of it, which would seem
    to double the memory that the model takes."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _forward(name: str, model: PreTrainedModel) -> type[Forward]:
    """The quickest way to call the model that gives its logits. Raises UnsupportedModel if there is none."""
    if can_be_lean(model) and _stays_the_same(model, LeanForward):
        return LeanForward
    check_supported(name, model)
    return ModelForward


def _stays_the_same(model: PreTrainedModel, forward: type[Forward]) -> bool:
    """Whether it gives the logits of the model's own forward call."""
    try:
        return distance(model, forward) < _allowed(model)
    except Exception:  # weights may be of any type, and not all can be joined
        return False


def check_supported(name: str, model: PreTrainedModel) -> None:
    """Raises UnsupportedModel unless ragged, rolled-back feeding gives the logits of a plain forward call."""
    kind = model.config.model_type
    if getattr(model, "_is_stateful", False):
        raise UnsupportedModel(f"{name!r} ({kind}) {_RECURRENT}; {_CHOOSE}")
    try:
        measured = distance(model)
    except Exception as error:  # whatever it trips over, it cannot be run
        raise UnsupportedModel(
            f"{name!r} ({kind}) cannot be run on cospec's cache: {_told(error)}; {_CHOOSE}"
        ) from error
    allowed = _allowed(model)
    if not measured < allowed:
        raise UnsupportedModel(
            f"{name!r} ({kind}) gives other logits in ragged batches with rollback "
            f"(off by {measured:.2g} of their spread, allowed {allowed:g}); {_CHOOSE}"
        )


def _shapes(name: str, model: PreTrainedModel, options: LoadOptions) -> Shapes:
    """What `graphs` asks for. Raises UnsupportedModel where captured graphs are asked for and cannot be had."""
    if options.graphs == "shapes":
        return Shapes.FIXED
    if not options.graphs or not _is_on_cuda(options):
        return Shapes.AS_GIVEN
    reason = _why_not_captured(model)
    if reason is None:
        return Shapes.CAPTURED
    if options.graphs is True:
        raise UnsupportedModel(f"{name!r} ({model.config.model_type}) {reason}; set graphs to auto or false")
    return Shapes.AS_GIVEN


def _why_not_captured(model: PreTrainedModel) -> str | None:
    """Feeds a few tokens one by one, until the call is replayed, and compares the last row with an ordinary one."""
    rows = []
    try:
        for shapes in (Shapes.AS_GIVEN, Shapes.CAPTURED):
            runner = HfRunner(model, shapes=shapes)
            slot = runner.open()
            rows.append([runner.feed([Feed(slot, [token], 1)])[0] for token in range(NUM_UNCAPTURED + 3)][-1])
    except Exception as error:  # a model may do anything that no graph can
        return f"cannot be captured as a CUDA graph: {_told(error)}"
    off = float((rows[0] - rows[1]).abs().mean() / (rows[0].std() + 1e-9))
    return None if off < _allowed(model) else f"gives other logits from a CUDA graph (off by {off:.2g} of their spread)"


def _allowed(model: PreTrainedModel) -> float:
    """Half precision rounds differently for each shape of a call; a wrong mask or position is far coarser."""
    return 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.2


def _weights(name: str, path: str, config: PreTrainedConfig, options: LoadOptions) -> PreTrainedModel:
    device = device_of(options)
    quantised: dict[str, object] = {}
    if options.quantization:
        quantised["quantization_config"] = dict(options.quantization)
    is_quantised = bool(options.quantization or getattr(config, "quantization_config", None))
    if is_quantised and device != "cpu":
        # What is quantised on its way to the device cannot always be moved later.
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


def _refuse_by_config(name: str, config: PreTrainedConfig) -> None:
    """Raises UnsupportedModel for what is known not to work, before its weights are read."""
    text = config.get_text_config()
    reason = _REFUSED.get(config.model_type)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not getattr(config, "auto_map", None):
        reason = "is no causal language model that transformers knows"
    elif getattr(text, "alibi", False):
        reason = _ALIBI
    elif getattr(MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None), "_is_stateful", False):
        reason = _RECURRENT
    elif others := set(getattr(text, "layer_types", None) or ()) - _KNOWN_LAYERS:
        reason = f"has layers of type {', '.join(sorted(others))}, which are not known to be rolled back exactly"
    if reason is not None:
        raise UnsupportedModel(f"{name!r} ({config.model_type}) {reason}; {_CHOOSE}")


def _looks_local(path: str) -> bool:
    return path.startswith((".", "/")) or path.count("/") != 1 or Path(path).exists()


def _check_folder(name: str, folder: Path, options: LoadOptions) -> None:
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


def _has_tokenizer(path: str) -> bool:
    return not Path(path).is_dir() or any((Path(path) / name).exists() for name in _TOKENIZER_FILES)


def _check_device(name: str) -> None:
    """Raises InvalidEnsemble for a device that is none, or is not there."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidEnsemble(f"device {name!r} is not known; use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidEnsemble(
            f"device {name!r} is not there: this machine has {torch.cuda.device_count()} CUDA devices"
        )


def device_of(options: LoadOptions) -> str:
    """Where a model is put."""
    return options.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _is_on_cuda(options: LoadOptions) -> bool:
    return torch.device(device_of(options)).type == "cuda"


def dtype_of(options: LoadOptions, stored: torch.dtype) -> torch.dtype:
    """What a model whose weights are stored so computes in."""
    if options.dtype != "auto":
        return _DTYPES[str(options.dtype).removeprefix("torch.")]
    if device_of(options) != "cpu" or (stored == torch.bfloat16 and torch.cpu._is_amx_tile_supported()):
        return stored
    return torch.float32


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Whatever transformers raises becomes a CospecError."""
    try:
        yield
    except CospecError:
        raise
    except OSError as error:
        raise ModelNotFound(f"model {name!r} cannot be read: {_told(error)}") from error
    except Exception as error:  # it and the libraries under it raise anything
        raise UnsupportedModel(f"model {name!r} cannot be loaded: {_told(error)}") from error


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Transformers draws one for every model that it loads, into whatever the caller shows."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _told(error: BaseException) -> str:
    """The error on one line, not too long."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:700] + '…' if len(text) > 700 else text or 'no message'}"

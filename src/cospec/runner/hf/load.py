"""From a path or hub id to a runner: weights, tokenizer, and the fastest forward pass that gives the right logits."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from ...errors import CospecError, DoesNotFit, MissingExtra, ModelNotFound, UnsupportedModel, one_line
from ..gguf import GgufHeader, read_gguf_header
from ..memory import check_memory, is_want_of_memory
from ..options import LoadOptions, device_of, dtype_of, is_on_cuda, quantization_of
from ..protocol import Feed
from .checkpoint import called, check_tokenizer, check_weights, header_shapes, read_config, remote_code_message
from .compiled.forward import CompiledForward, can_compile
from .forward import Forward, ModelForward
from .fused import FusedForward, can_fuse
from .gguf import read_gguf, read_gguf_tokenizer
from .graphs import NUM_UNCAPTURED, Shapes
from .joined import separate
from .layouts import Layout, join_products
from .packing import packing, prepack, widen_head
from .panels import PanelLinear
from .prepacked import is_native
from .proof import check_device, check_kind, prove
from .quantised import check_quantisation
from .resident import trim
from .runner import HfRunner
from .support import check_supported, distance, refuse_by_config, tolerance
from .tokenizer import HfTokenizer
from .updates import has_state
from .wrapped import auto_class, language_model

logger = logging.getLogger(__name__)


def load_whole(model: str, options: LoadOptions, path: Path) -> HfRunner:
    """The runner of all of a model, whose folder or GGUF file is here. model: as it was named, by its path or hub id.

    Raises ModelNotFound, UnsupportedModel, DoesNotFit, or MissingExtra where a package is not installed that reads it.
    """
    if options.is_invariant:
        check_device(model, device_of(options))
    if options.tokenizer is not None and not path.is_file():
        raise UnsupportedModel(
            f"{model!r} has the tokenizer of its own folder, and tokenizer is {options.tokenizer!r}, which takes the "
            "place of a GGUF file's alone; leave it out"
        )
    with explained(model, path):
        read = _read_file if path.is_file() else _read_folder
        weights, tokenizer = read(model, path, options)
        _warn_if_slow(model, weights)
        layout = join_products(weights, is_invariant=options.is_invariant) if can_fuse(weights) else None
        kind = packing(weights.dtype) if layout is None else layout.kind
        if options.is_invariant or kind is PanelLinear:
            # Other kinds take two products for it.
            widen_head(weights, kind)
        prepack(weights)
        # The most is held from here on, where passes are tested.
        trim()
        forward = _forward(model, weights, layout)
        runner = HfRunner(weights, tokenizer, _shapes(model, weights, options), forward)
        if options.is_invariant:
            runner.blocks = prove(model, runner)
        trim()
        return runner


def load_model(name: str, options: LoadOptions, path: Path) -> PreTrainedModel:
    """The model itself, as transformers has it: not packed for decoding, and with gradients. Raises as `load_whole`
    does."""
    return load_both(name, options, path)[0]


def load_both(name: str, options: LoadOptions, path: Path) -> tuple[PreTrainedModel, HfTokenizer | None]:
    """The same, and the tokenizer, if it has one."""
    with explained(name, path):
        return (_read_file if path.is_file() else _read_folder)(name, path, options)


def _read_folder(name: str, folder: Path, options: LoadOptions) -> tuple[PreTrainedModel, HfTokenizer | None]:
    config = config_of(name, folder, options)
    _check_quantisation(name, config, options)
    if options.is_invariant:
        check_kind(name, config, MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config.get_text_config()), None))
    check_weights(name, folder, options)
    tokenizer = read_tokenizer(name, folder, options)
    # A folder that was given was counted before, with all others.
    if folder != Path(os.path.expanduser(name)):
        check_memory([(str(folder), options)], name=name)
    return _weights(name, folder, config, options), tokenizer


def _read_file(name: str, file: Path, options: LoadOptions) -> tuple[PreTrainedModel, HfTokenizer | None]:
    with _no_progress_bars():
        model, info, tokenizer = read_gguf(name, file, options)
    _check_complete(name, model.config, info)
    weights: PreTrainedModel = model.to(torch.device(device_of(options)))  # type: ignore[arg-type]
    return weights, tokenizer or _named_tokenizer(name, read_gguf_header(file), options)


def _warn_if_slow(name: str, model: PreTrainedModel) -> None:
    """Log where the CPU does not multiply in the model's type: each pass then converts all weights."""
    if model.device.type == "cpu" and not is_native(model.dtype) and packing(model.dtype) is None:
        dtype = str(model.dtype).removeprefix("torch.")
        logger.warning(
            "%s computes in %s, in which this CPU does not multiply: in float32 it would be several times as fast, "
            "and take twice the memory",
            name,
            dtype,
        )


def _forward(name: str, model: PreTrainedModel, layout: Layout | None) -> Forward:
    """The fastest forward pass that gives the model's logits. layout: of `join_products`, None for a model that cannot
    be fused. Raises UnsupportedModel if there is none."""
    if layout is not None:
        try:
            forward = FusedForward(model, layout.sizes)
            if distance(model, forward) < tolerance(model):
                return _compiled(name, model, forward)
        except Exception:  # weights may be of any type, and not all can be joined; the model's own pass is tested below
            logger.debug("%s cannot be fused", name, exc_info=True)
        separate(model)
    check_supported(name, model)
    return ModelForward(model)


def _compiled(name: str, model: PreTrainedModel, fused: FusedForward) -> Forward:
    """The fused pass in one call, where that gives the model's logits too."""
    try:
        if can_compile(model) and distance(model, forward := CompiledForward(model, fused)) < tolerance(model):
            return forward
    except Exception:  # of numba or the machine; the fused pass remains
        logger.debug("%s cannot be compiled", name, exc_info=True)
    return fused


def _shapes(name: str, model: PreTrainedModel, options: LoadOptions) -> Shapes:
    """The shapes that `graphs` asks for. Raises UnsupportedModel where what is demanded is impossible."""
    if has_state(model) and options.graphs in ("shapes", True):
        raise UnsupportedModel(
            f"{name!r} ({model.config.model_type}) keeps a recurrent state, whose rollback has no fixed shape; set "
            "graphs to auto or false"
        )
    if options.graphs == "shapes":
        return Shapes.FIXED
    if not options.graphs or not is_on_cuda(options) or has_state(model):
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


def config_of(name: str, folder: Path, options: LoadOptions) -> PreTrainedConfig:
    """The model's configuration. Raises ModelNotFound or UnsupportedModel for one that cannot be run."""
    settings = read_config(name, folder, options)
    config: PreTrainedConfig = AutoConfig.from_pretrained(folder, **_trust(options))
    has_code = "AutoModelForCausalLM" in (settings.get("auto_map") or ())
    if has_code and not options.trust_remote_code and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModel(remote_code_message(name, folder, settings))
    refuse_by_config(name, config)
    return config


def _check_quantisation(name: str, config: PreTrainedConfig, options: LoadOptions) -> None:
    """Raises UnsupportedModel or MissingExtra for weights that transformers cannot read here."""
    for quantised in (getattr(config, "quantization_config", None), quantization_of(options)):
        if quantised:
            check_quantisation(name, quantised)


def read_tokenizer(name: str, folder: Path, options: LoadOptions) -> HfTokenizer | None:
    """The folder's tokenizer, if it has one. Raises UnsupportedModel for one that cannot be read."""
    if not check_tokenizer(name, folder):
        return None
    try:
        return HfTokenizer(AutoTokenizer.from_pretrained(folder, **_trust(options)))
    except ImportError:
        raise
    except Exception as error:  # transformers and the libraries under it may raise anything
        raise UnsupportedModel(
            f"the tokenizer of {called(name, folder)} cannot be read: {one_line(error)}; copy or download its files "
            "again"
        ) from error


def gguf_tokenizer(name: str, file: Path, header: GgufHeader, options: LoadOptions) -> HfTokenizer | None:
    """That of the folder that the options name, or the GGUF file's own, if it has one.

    Raises UnsupportedModel for one that cannot be read, ModelNotFound, and MissingExtra.
    """
    return _named_tokenizer(name, header, options) or read_gguf_tokenizer(name, file, header)


def _named_tokenizer(name: str, header: GgufHeader, options: LoadOptions) -> HfTokenizer | None:
    """That of the folder that the options name; None where they name none. Raises ModelNotFound or UnsupportedModel."""
    if options.tokenizer is None:
        return None
    folder = Path(os.path.expanduser(options.tokenizer))
    if not folder.is_dir():
        raise ModelNotFound(f"no folder at {options.tokenizer!r} (tokenizer, of {name}); give one with tokenizer files")
    tokenizer = read_tokenizer(options.tokenizer, folder, options)
    if tokenizer is None:
        raise UnsupportedModel(f"{options.tokenizer!r} (tokenizer, of {name}) has no tokenizer; give another folder")
    entries, columns = len(tokenizer.entries()), header.metadata.get("tokenizer.ggml.tokens")
    if columns is not None and entries > columns:
        raise UnsupportedModel(
            f"the tokenizer of {options.tokenizer!r} has {entries} tokens, and the GGUF file {name} has {columns}: it "
            "is another model's; give its own, or leave `tokenizer` out"
        )
    return tokenizer


def _trust(options: LoadOptions) -> dict[str, bool]:
    """What from_pretrained is to be allowed. A folder is all that is read, unless code may come from elsewhere."""
    return {"trust_remote_code": options.trust_remote_code, "local_files_only": not options.trust_remote_code}


def _weights(name: str, folder: Path, config: PreTrainedConfig, options: LoadOptions) -> PreTrainedModel:
    """The model on its device, in its type. Raises UnsupportedModel where weights are missing."""
    device = device_of(options)
    quantised: dict[str, object] = {}
    if options.quantization:
        quantised["quantization_config"] = quantization_of(options)
    is_quantised = bool(options.quantization or getattr(config, "quantization_config", None))
    if is_quantised and device != "cpu":
        # A model that is quantised as it is loaded cannot always be moved to a device later.
        quantised["device_map"] = {"": device}
    try:
        with _no_progress_bars():
            answer: Any = auto_class(config).from_pretrained(  # type: ignore[attr-defined]
                folder,
                config=config,
                dtype=dtype_of(options, getattr(config, "dtype", None) or torch.float32),
                use_safetensors=None if options.allow_pickle else True,
                output_loading_info=True,
                **_trust(options),
                **quantised,
            )
    except RuntimeError as error:
        # What transformers says of weights of other shapes than the configuration's; which, it only logs.
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise UnsupportedModel(
            f"{name!r}: its weights do not have the shapes of its config.json{_first_misfit(folder, config)}; copy or "
            "download both from one model"
        ) from error
    model, info = answer
    _check_complete(name, config, info)
    weights: PreTrainedModel = model if is_quantised else model.to(device)
    return language_model(weights)


def _check_complete(name: str, config: PreTrainedConfig, info: Mapping[str, Any]) -> None:
    """Raises UnsupportedModel where the model lacks weights. info: what transformers reports of its loading."""
    missing = sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])
    if missing:
        raise UnsupportedModel(
            f"{name!r} ({config.model_type}) lacks {len(missing)} of its weights, the first being {missing[0]!r}; "
            "download it again, or give the folder of a causal language model"
        )


def _first_misfit(folder: Path, config: PreTrainedConfig) -> str:
    """The first weight that has not the shape that the configuration gives it, with both; "" where none is found."""
    with torch.device("meta"):
        model = auto_class(config).from_config(config)  # type: ignore[attr-defined]
    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    for file in sorted(folder.glob("*.safetensors")):
        for key, shape in header_shapes(file).items():
            if shapes.get(key, shape) != shape:
                return f": {key!r} is {shape}, and should be {shapes[key]}"
    return ""


@contextmanager
def explained(name: str, folder: Path) -> Iterator[None]:
    """Whatever transformers, and the libraries under it, raise becomes a CospecError that names the model."""
    where = f"model {called(name, folder)}"
    try:
        yield
    except CospecError:
        raise
    except ImportError as error:
        raise MissingExtra(f"{where} needs a package that is not installed: {one_line(error)}") from error
    except BaseException as error:
        if is_want_of_memory(error):
            raise DoesNotFit(
                f"{where} does not fit into the memory ({one_line(error)}); choose a smaller model or dtype, quantise "
                "it, or choose another device"
            ) from error
        if isinstance(error, OSError):
            raise ModelNotFound(f"{where} cannot be read: {one_line(error)}") from error
        # A panic of the tokenizers or safetensors library, which are written in Rust, is no Exception.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise UnsupportedModel(
                f"{where} cannot be loaded: {one_line(error)}; copy or download it again, or choose another"
            ) from error
        raise


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

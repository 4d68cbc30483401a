"""Which back end runs a GGUF file, llama.cpp or transformers: one rule, for all models of an ensemble together."""

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from .gguf import gguf_of
from .options import LLAMA_CPP, TRANSFORMERS, LoadOptions, is_on_cuda
from .parts import Parts, local_folder, parts_of

PACKAGE = "llama_cpp"
HOW_TO_GET = "pip install 'cospec[llamacpp]'"
# Libraries of llama.cpp's that compute on a GPU, by a part of their names.
_GPUS = ("cuda", "hip", "vulkan", "metal", "sycl")


def choose_backends(models: Sequence[tuple[str, LoadOptions]]) -> list[LoadOptions]:
    """The options of each, with the back end of each GGUF file that lies here.

    Where it is left to `auto`, llama.cpp runs a file if it is installed, unless something is asked for of it that
    transformers alone does; then transformers runs it for all of these models, so that adapters, first layers and the
    whole stand on weights that are read once.
    """
    parts = [parts_of(*each) for each in models]
    files = [file_of(each) for each in parts]
    shared = {file for file, each in zip(files, parts, strict=True) if file and transformers_alone(each)}
    return [
        options if file is None else replace(options, backend=_chosen(each, is_left=file in shared))
        for (_, options), each, file in zip(models, parts, files, strict=True)
    ]


def backend_of(parts: Parts, file: Path | None) -> str:
    """What runs one model by itself. file: the GGUF file that it is, or stands on; None for a model of another kind."""
    return _chosen(parts, is_left=file is None)


def file_of(parts: Parts) -> Path | None:
    """The GGUF file that a model is, or stands on, where that lies here."""
    path = local_folder(parts.whole)
    file = gguf_of(path, parts.options) if path else None
    return Path(os.path.realpath(file)) if file else None


def transformers_alone(parts: Parts) -> str | None:
    """What is asked for that llama.cpp does not do; None where it does all of it."""
    options = parts.options
    asked = {
        "an adapter of PEFT's": parts.adapter is not None and not is_adapter_file(parts),
        "a model's first layers (layers)": parts.layers is not None,
        "a head of some tokens (vocabulary)": parts.vocabulary is not None,
        "hidden states for a drafting head": parts.head is not None,
        "another dtype than the file's": options.dtype != "auto",
        "another quantization than the file's": bool(options.quantization),
        "passes of fixed shapes (graphs)": options.graphs not in ("auto", False),
        "numerics: invariant": options.is_invariant,
    }
    return next((what for what, is_asked in asked.items() if is_asked), None)


def is_adapter_file(parts: Parts) -> bool:
    """Whether the adapter is one of llama.cpp's, in a GGUF file."""
    return parts.adapter is not None and parts.adapter.is_file()


def is_installed() -> bool:
    return find_spec(PACKAGE) is not None


def _chosen(parts: Parts, *, is_left: bool) -> str:
    """is_left: whether `auto` leaves the file to transformers, whatever is asked for here."""
    if parts.options.backend != "auto":
        return parts.options.backend
    if is_adapter_file(parts):
        return LLAMA_CPP
    can = not is_left and transformers_alone(parts) is None and _runs_here(parts.options)
    return LLAMA_CPP if can else TRANSFORMERS


def _runs_here(options: LoadOptions) -> bool:
    """Whether llama.cpp is installed, and computes on the device that is meant."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        # Asked for layers on a GPU, llama.cpp is meant: loading says what to install.
        return options.gpu_layers is not None
    folder = Path(spec.origin).parent / "lib"
    return not is_on_cuda(options) or any(gpu in file.name for file in folder.glob("*ggml-*") for gpu in _GPUS)

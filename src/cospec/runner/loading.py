"""The loader of folders, GGUF files and hub ids: the runner of whichever back end runs the model."""

from .. import demo
from ..errors import UnsupportedModel
from . import hf, llamacpp
from .backends import HOW_TO_GET, backend_of, is_adapter_file
from .gguf import gguf_of
from .hf.assemble import located
from .options import LLAMA_CPP, LoadOptions
from .parts import local_folder, parts_of
from .protocol import Runner


def load(model: str, options: LoadOptions) -> Runner:
    """The runner of a local folder, GGUF file or hub id.

    Raises ModelNotFound, UnsupportedModel, DoesNotFit, InvalidEnsemble for more layers or tokens than the model has,
    and MissingExtra where a package is not installed that reads it.
    """
    path = local_folder(model) or located(model, options)
    parts = parts_of(model, options, path)
    if is_adapter_file(parts):
        base = demo.path_of(parts.whole)
        file = gguf_of(local_folder(base) or located(base, parts.options), parts.options)
    else:
        file = gguf_of(path, options) if parts.adapter is None else None
    if backend_of(parts, file) == LLAMA_CPP:
        return llamacpp.load(model, parts, file)
    if is_adapter_file(parts):
        raise UnsupportedModel(
            f"{model!r} is an adapter in a GGUF file, which llama.cpp alone reads, and backend is "
            f"{parts.options.backend}; leave that out ({HOW_TO_GET})"
        )
    if options.gpu_layers is not None:
        raise UnsupportedModel(
            f"{model!r} is run by transformers, and gpu_layers is {options.gpu_layers}, which llama.cpp alone "
            "reads; leave it out, or give device"
        )
    return hf.load_parts(model, options, parts)


def load_bundled(name: str, options: LoadOptions) -> Runner:
    """The runner of a bundled model: `math` for `demo:math`. Raises UnknownName."""
    return load(demo.model_path(demo.PREFIX + name), options)

"""From a GGUF file to a runner: the weights of all its members loaded once, a context of its own for each."""

import os
from dataclasses import replace
from pathlib import Path

from ...errors import UnsupportedModel
from ..backends import is_adapter_file, transformers_alone
from ..gguf import GgufHeader, read_gguf_header
from ..hf.checkpoint import called
from ..hf.gguf import end_ids_of, refuse_other_kinds
from ..hf.load import gguf_tokenizer
from ..memory import check_memory
from ..options import LLAMA_CPP
from ..parts import Parts
from ..pool import pooled
from .context import FIRST_CELLS, Context
from .library import library
from .runner import LlamaCppRunner
from .support import probe, refuse
from .weights import Weights

# Cells of the context that a model is tested in.
_PROBE_CELLS = 256


def load(model: str, parts: Parts, file: Path | None) -> LlamaCppRunner:
    """The runner of a GGUF file, or of an adapter in one on it. file: the model's own, or the base's.

    Raises UnsupportedModel for what llama.cpp cannot do, DoesNotFit, and MissingExtra.
    """
    _refuse(model, parts, file)
    assert file is not None, "no other file is llama.cpp's"
    library()
    header = read_gguf_header(file)
    where = called(model, file)
    refuse_other_kinds(where, header)
    weights = _weights(where, file, header, parts)
    tokenizer = gguf_tokenizer(where, file, header, parts.options)
    adapter = weights.adapter(called(model, parts.adapter), parts.adapter) if parts.adapter else None
    tested = Context(weights, adapter, _PROBE_CELLS)
    probe(where, header.architecture, tested)
    return LlamaCppRunner(tested.of_size(FIRST_CELLS), tokenizer, end_ids_of(header))


def _refuse(model: str, parts: Parts, file: Path | None) -> None:
    """Raises UnsupportedModel for what llama.cpp does not run, before anything is read."""
    if asked := transformers_alone(parts):
        raise UnsupportedModel(
            f"{model!r} asks for {asked}, which llama.cpp does not do, and backend is {parts.options.backend}; leave "
            "one of them out, or set backend to transformers"
        )
    if file is None:
        what = f"the adapter {model!r} is put on {parts.whole!r}, which" if is_adapter_file(parts) else f"{model!r}"
        raise UnsupportedModel(
            f"{what} is no GGUF file, and llama.cpp reads no other (backend is {LLAMA_CPP}); give a file, or leave "
            "backend out"
        )


def _weights(where: str, file: Path, header: GgufHeader, parts: Parts) -> Weights:
    """Those of this file on this device, loaded once for all that stand on them. Raises as `load` does."""

    def make() -> Weights:
        check_memory([(str(file), replace(parts.options, gguf_file=None, backend=LLAMA_CPP))], name=where)
        weights = Weights(where, file, parts.options)
        refuse(where, header.architecture, weights)
        return weights

    return pooled(("llama.cpp", os.path.realpath(file), parts.options.device, parts.options.gpu_layers), make)

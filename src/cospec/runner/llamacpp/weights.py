"""A GGUF file that llama.cpp has loaded, and adapters for it."""

import ctypes
import weakref
from pathlib import Path
from typing import Any

import torch

from ...errors import UnsupportedModel
from ..options import LoadOptions, device_of
from .library import last_errors, library

# A negative number of layers means all of them.
_ALL = -1


class Weights:
    """What several members of one file share. num_entries: of a row, as the file has it. context: the most tokens that
    the model was trained on. device: where its layers are, or most of them."""

    def __init__(self, where: str, file: Path, options: LoadOptions) -> None:
        """where: what errors call it. Raises UnsupportedModel, with llama.cpp's reason."""
        llama = library()
        params = llama.llama_model_default_params()
        on_gpu = llama.llama_supports_gpu_offload() and options.device != "cpu"
        params.n_gpu_layers = _ALL if options.gpu_layers is None else options.gpu_layers
        if not on_gpu:
            if options.gpu_layers:
                raise UnsupportedModel(
                    f"{where}: gpu_layers is {options.gpu_layers}, and this build of llama.cpp computes on the CPU "
                    "alone, or device is cpu; leave gpu_layers out, or install a build for your GPU"
                )
            params.n_gpu_layers = 0
        elif options.device is not None:
            params.split_mode, params.main_gpu = 0, torch.device(options.device).index or 0
        last_errors()
        self.handle: Any = llama.llama_model_load_from_file(str(file).encode(), params)
        if not self.handle:
            raise UnsupportedModel(
                f"llama.cpp cannot load {where}{last_errors()}; copy or download it again, or set "
                "backend to transformers"
            )
        weakref.finalize(self, llama.llama_model_free, self.handle)
        self.file = file
        self.device = device_of(options) if params.n_gpu_layers else "cpu"
        self.num_entries: int = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.handle))
        self.context: int = llama.llama_model_n_ctx_train(self.handle)
        self.num_bytes: int = llama.llama_model_size(self.handle)

    def adapter(self, where: str, file: Path) -> "Adapter":
        """An adapter's file, read for these weights. Raises UnsupportedModel where it is of another model."""
        last_errors()
        handle = library().llama_adapter_lora_init(self.handle, str(file).encode())
        if not handle:
            raise UnsupportedModel(
                f"llama.cpp cannot put the adapter {where} on {self.file.name!r}{last_errors()}; give the model "
                "that it was trained on as `base`"
            )
        return Adapter(self, handle, file.stat().st_size)


class Adapter:
    """An adapter of these weights, which are held as long as it is; llama.cpp frees it with them."""

    def __init__(self, weights: Weights, handle: Any, num_bytes: int) -> None:
        self.weights, self.handle, self.num_bytes = weights, handle, num_bytes

    def put_on(self, context: Any) -> None:
        """Have a context compute with it."""
        llama = library()
        handles = (llama.llama_adapter_lora_p_ctypes * 1)(self.handle)
        if llama.llama_set_adapters_lora(context, handles, 1, (ctypes.c_float * 1)(1.0)) != 0:
            raise UnsupportedModel(f"llama.cpp cannot use the adapter{last_errors()}")

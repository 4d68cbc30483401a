"""How a model is loaded: data type, device, quantisation, and what of its files may be trusted."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..errors import InvalidEnsemble, shown

_DTYPES = {
    "float32": torch.float32, "fp32": torch.float32,
    "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float16": torch.float16, "fp16": torch.float16,
    "float64": torch.float64,
}  # fmt: skip
# What may be given by name.
DTYPES = ("auto", *_DTYPES)
GRAPHS = ("auto", "shapes")
NUMERICS = ("default", "invariant")
# What reads a GGUF file: one of the two, or whichever `backends` says.
TRANSFORMERS, LLAMA_CPP = "transformers", "llama.cpp"
BACKENDS = ("auto", LLAMA_CPP, TRANSFORMERS)
# Options of one model, which cannot be given for all of an ensemble.
ONE_MODEL = ("gguf_file", "tokenizer", "base", "layers", "vocabulary")
# What transformers calls the two widths of bitsandbytes.
_BITS = {"4bit": "load_in_4bit", "8bit": "load_in_8bit"}


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a model is loaded. Models of equal path and options are loaded once.

    dtype: a name such as "bfloat16", or "auto": as stored on CUDA; on a CPU bfloat16 if it has AMX and weights are
    stored so, else float32. device: "cpu", "cuda", "cuda:1", ...; None for CUDA where there is one.
    quantization: "4bit" or "8bit", by bitsandbytes as the model is loaded; or arguments of transformers' quantisation
    configuration, passed through. revision: branch, tag or commit of a model of the hub; None for its main branch.
    trust_remote_code: whether code shipped with the weights may run. allow_pickle: whether weights that are not
    safetensors may be read. graphs: whether decoding passes are captured as CUDA graphs; "auto" where the device is
    CUDA and the model allows it, "shapes" for the padding to few shapes alone, on any device. numerics: "invariant" for
    rows that are a function of the tokens before them alone, to the last bit, whatever else is in a forward pass; a
    model for which that cannot be proven as it is loaded is refused. gguf_file: which GGUF file of the model's folder,
    or of the hub's model, is read. tokenizer: a folder whose tokenizer and chat template take the place of a GGUF
    file's own. backend: what runs a GGUF file, "llama.cpp" or "transformers"; "auto" by the rule of `backends`.
    gpu_layers: how many layers llama.cpp puts on a GPU, None for all where it can. base: the model that an adapter is
    put on, in place of the one that its configuration names. layers: only the model's first layers are run, so many,
    then its final norm and head. vocabulary: a drafter proposes among so many most frequent tokens alone.

    Raises InvalidEnsemble for a value that is not known, or a device that this machine does not have.
    """

    dtype: str | torch.dtype = "auto"
    device: str | None = None
    quantization: Mapping[str, object] | str = field(default_factory=dict)
    trust_remote_code: bool = False
    allow_pickle: bool = False
    graphs: bool | str = "auto"
    numerics: str = "default"
    revision: str | None = None
    gguf_file: str | None = None
    tokenizer: str | None = None
    backend: str = "auto"
    gpu_layers: int | None = None
    base: str | None = None
    layers: int | None = None
    vocabulary: int | None = None

    def __post_init__(self) -> None:
        is_dtype = isinstance(self.dtype, str | torch.dtype) and str(self.dtype).removeprefix("torch.") in DTYPES
        if not is_dtype:
            raise InvalidEnsemble(f"dtype {shown(self.dtype)} is not known; use {', '.join(DTYPES)}")
        if self.revision is not None and not (isinstance(self.revision, str) and self.revision):
            raise InvalidEnsemble(f"revision must be a branch, tag or commit of the hub, got {shown(self.revision)}")
        if self.gguf_file is not None and not (isinstance(self.gguf_file, str) and self.gguf_file):
            raise InvalidEnsemble(f"gguf_file must name a file of the model's folder, got {shown(self.gguf_file)}")
        if self.tokenizer is not None and not (isinstance(self.tokenizer, str) and self.tokenizer.strip()):
            raise InvalidEnsemble(f"tokenizer must be a folder with a tokenizer's files, got {shown(self.tokenizer)}")
        if self.backend not in BACKENDS:
            raise InvalidEnsemble(f"backend {shown(self.backend)} is not known; use {', '.join(BACKENDS)}")
        _check_gpu_layers(self.gpu_layers, self.backend)
        if self.base is not None and not (isinstance(self.base, str) and self.base.strip()):
            raise InvalidEnsemble(f"base must be a model (a folder, a hub id, demo:NAME), got {shown(self.base)}")
        for name in ("layers", "vocabulary"):
            _check_count(name, getattr(self, name))
        is_named = isinstance(self.quantization, str) and self.quantization in _BITS
        if not is_named and not isinstance(self.quantization, Mapping):
            raise InvalidEnsemble(
                f"quantization {shown(self.quantization)} is not known; use {', '.join(_BITS)}, or keys and values of "
                "a quantisation configuration of transformers, such as {quant_method: quanto, weights: int8}"
            )
        if self.device is not None:
            _check_device(self.device)
        for name in ("trust_remote_code", "allow_pickle"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidEnsemble(f"{name} must be true or false, got {shown(getattr(self, name))}")
        if not isinstance(self.graphs, bool) and not (isinstance(self.graphs, str) and self.graphs in GRAPHS):
            raise InvalidEnsemble(f"graphs {shown(self.graphs)} is not known; use {', '.join(GRAPHS)}, true or false")
        if self.graphs is True and not is_on_cuda(self):
            raise InvalidEnsemble("graphs can only be captured on a CUDA device; use auto, shapes or false")
        if self.numerics not in NUMERICS:
            raise InvalidEnsemble(f"numerics {shown(self.numerics)} is not known; use {', '.join(NUMERICS)}")
        if self.is_invariant and self.graphs not in ("auto", False):
            raise InvalidEnsemble(
                f"numerics: invariant keeps to shapes of its own, and graphs is {shown(self.graphs)}; use auto or false"
            )

    @property
    def is_invariant(self) -> bool:
        return self.numerics == "invariant"


def device_of(options: LoadOptions) -> str:
    """The device that a model is put on."""
    return options.device or ("cuda" if torch.cuda.is_available() else "cpu")


def is_on_cuda(options: LoadOptions) -> bool:
    return torch.device(device_of(options)).type == "cuda"


def quantization_of(options: LoadOptions) -> dict[str, object]:
    """The arguments of transformers' quantisation configuration; empty for none."""
    if isinstance(options.quantization, str):
        return {"quant_method": "bitsandbytes", _BITS[options.quantization]: True}
    return dict(options.quantization)


def dtype_of(options: LoadOptions, stored: torch.dtype) -> torch.dtype:
    """The type that a model computes in whose weights are stored in `stored`."""
    if options.dtype != "auto":
        return _DTYPES[str(options.dtype).removeprefix("torch.")]
    if device_of(options) != "cpu" or (stored == torch.bfloat16 and torch.cpu._is_amx_tile_supported()):
        return stored
    return torch.float32


def _check_count(name: str, value: object) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise InvalidEnsemble(f"{name} must be a whole number of at least 1, got {shown(value)}")


def _check_gpu_layers(value: object, backend: str) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidEnsemble(f"gpu_layers must be a whole number of at least 0, got {shown(value)}")
    if backend == TRANSFORMERS:
        raise InvalidEnsemble(
            f"gpu_layers is llama.cpp's, and backend is {backend}; leave it out, or set backend to {LLAMA_CPP}"
        )


def _check_device(name: object) -> None:
    try:
        # A number would be a CUDA device to torch.
        device = torch.device(name) if isinstance(name, str) else None
    except (RuntimeError, ValueError):
        device = None
    if device is None:
        raise InvalidEnsemble(f"device {shown(name)} is not known; use cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidEnsemble(
            f"device {shown(name)} is not there: this machine has {torch.cuda.device_count()} CUDA devices"
        )

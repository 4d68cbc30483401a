"""Whether models fit into memory, found before any is loaded: a machine that swaps reports no error."""

import json
import logging
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil
import torch

from ..errors import CospecError, DoesNotFit
from .gguf import gguf_of, parts_of_split, read_gguf_header
from .options import LLAMA_CPP, LoadOptions, device_of, dtype_of
from .parts import ADAPTER, HEAD_WEIGHTS
from .protocol import Runner, server_of
from .schemes import is_there

_MIB, _GIB = 2**20, 2**30
# The most bytes that the format of safetensors allows a file's header.
LONGEST_HEADER = 100_000_000

logger = logging.getLogger(__name__)


def check_memory(models: Iterable[tuple[str, LoadOptions]], name: str | None = None) -> None:
    """Raises DoesNotFit if the weights of these models, each loaded once, exceed what a device has free.

    models: path and options of each. Local GGUF files, and folders with safetensors, are counted; the size of others is
    not known before they are fetched. name: of a single model, where its path does not say it.
    """
    needed: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for path, options in models:
        size = _size(Path(path), options)
        if size:
            needed[device_of(options)].append((path, size))
    for device, sizes in needed.items():
        free = free_bytes(device)
        total = sum(size for _, size in sizes)
        if total > free:
            each = ", ".join(f"{name or Path(path).name} {size / _GIB:.1f}" for path, size in sizes)
            raise DoesNotFit(
                f"these models need {total / _GIB:.1f} GiB on {device} for their weights ({each}), and "
                f"{free / _GIB:.1f} GiB are free; choose smaller models, a smaller dtype, or other devices"
            )


def check_states(runners: Mapping[str, Runner], max_sequences: int) -> None:
    """Raises DoesNotFit if what one sequence takes whatever its length, recurrent states with their snapshots, exceeds
    what a device has free. Logs how many sequences fit where those are fewer than may be decoded at a time.

    runners: members and drafters, by name; each has a slot for every sequence.
    """
    needed: dict[str, dict[str, int]] = defaultdict(dict)
    for name, runner in runners.items():
        server = server_of(runner)
        if size := getattr(server, "slot_bytes", 0):
            needed[server.device][name] = size  # type: ignore[attr-defined]
    for device, sizes in needed.items():
        free, total = free_bytes(device), sum(sizes.values())
        each = ", ".join(f"{name} {size / _MIB:.0f}" for name, size in sizes.items())
        what = f"need {total / _MIB:.0f} MiB on {device} for the recurrent states of each sequence ({each})"
        if total > free:
            raise DoesNotFit(
                f"these models {what}, and {free / _MIB:.0f} MiB are free; choose smaller models, or other devices"
            )
        if max_sequences * total > free:
            logger.warning(
                "these models %s, of which %d fit into what is free; set max_sequences to no more", what, free // total
            )


def free_bytes(device: str) -> int:
    """Bytes that are free on a device now."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(int(psutil.virtual_memory().available), _free_in_container())


def is_want_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, on any device."""
    # torch raises a RuntimeError for a CPU, and the mapping of a file an OSError.
    texts = ("can't allocate memory", "out of memory", "not enough memory", "Cannot allocate memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in texts)


def _free_in_container(folder: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that the control group, such as a container's, leaves to this process, which is killed beyond its limit.
    Pages of files that were read, which can be dropped, count as free."""
    try:
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(counts.get("inactive_file", 0)) + int(counts.get("active_file", 0)))
    except (OSError, ValueError):  # "max": no limit
        return sys.maxsize


def _size(folder: Path, options: LoadOptions) -> int:
    """Bytes of a folder's weights in the type that they are loaded in, as stored if they are quantised, an adapter's or
    a drafting head's; 0 if the folder holds no model that can be read, of which loading it says why."""
    if is_there(folder / HEAD_WEIGHTS):
        return (folder / HEAD_WEIGHTS).stat().st_size
    if is_there(folder / ADAPTER):
        return sum(file.stat().st_size for file in folder.glob("adapter_model.*"))
    if file := gguf_of(folder, options):
        # llama.cpp computes with the weights as they are stored, in as many parts as the file was split into.
        is_unpacked = options.backend != LLAMA_CPP
        return (
            _size_unpacked(file, options) if is_unpacked else sum(part.stat().st_size for part in parts_of_split(file))
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        files = list(folder.glob("*.safetensors"))
    except (OSError, ValueError, RecursionError):
        return 0
    if not isinstance(config, dict):
        return 0
    if options.quantization or config.get("quantization_config"):
        return sum(file.stat().st_size for file in files)
    stored_as = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), None)
    dtype = dtype_of(options, stored_as if isinstance(stored_as, torch.dtype) else torch.float32)
    return sum(count for file in files for count in _tensors(file)) * dtype.itemsize


def _size_unpacked(file: Path, options: LoadOptions) -> int:
    """The most bytes that a GGUF file's weights take while they are unpacked; 0 if its header cannot be read."""
    try:
        header = read_gguf_header(file)
    except CospecError:
        return 0
    dtype = dtype_of(options, header.dtype)
    size = most = 0
    for tensor in header.tensors:
        # Tensor by tensor, each of which takes two copies in float32 before it is in its type.
        cast = 0 if dtype == torch.float32 else dtype.itemsize
        most = max(most, size + tensor.num_weights * (2 * torch.float32.itemsize + cast))
        size += tensor.num_weights * dtype.itemsize
    return max(most, size)


def _tensors(file: Path) -> list[int]:
    """The number of entries of each tensor, read from the file's header alone, since a file larger than the memory
    cannot be mapped. Empty where the file has no such header; loading it says why."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(min(length, LONGEST_HEADER)))
        return [math.prod(map(int, tensor["shape"])) for name, tensor in header.items() if name != "__metadata__"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []

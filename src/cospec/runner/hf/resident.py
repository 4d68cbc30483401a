"""Memory that a process holds although nothing uses it: pages of mapped files, and what was freed."""

import ctypes
import mmap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

# madvise(2): unmaps pages; a file's are read again where they are needed again.
_UNMAP = getattr(mmap, "MADV_DONTNEED", None)


class MappedFiles:
    """The files that this process had mapped, and not changed, when this was made; none where the system tells of
    none."""

    def __init__(self) -> None:
        self._ranges = [*_unchanged_files()]

    def has(self, tensor: Tensor) -> bool:
        """Whether the tensor lies in one of them."""
        if tensor.is_mkldnn or tensor.device.type != "cpu" or not tensor.is_contiguous():
            return False
        start = tensor.data_ptr()
        end = start + tensor.numel() * tensor.element_size()
        return start < end and any(low <= start and end <= high for low, high in self._ranges)

    def release(self, tensor: Tensor) -> None:
        """Give back the pages that lie within a tensor of such a file: it has been read, and will hardly be again.

        Any other tensor stays as it is: of memory that no file stands behind, the contents would be lost.
        """
        if _UNMAP is None or not self.has(tensor):
            return
        start = tensor.data_ptr()
        end = start + tensor.numel() * tensor.element_size()
        first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
        if first < last:
            _libc().madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _UNMAP)


def copy_out_of_files(model: nn.Module, files: MappedFiles) -> None:
    """Copy weights that lie in mapped files into memory of their own; those that share one go on sharing it."""
    for tensor in (*model.parameters(), *model.buffers()):
        if files.has(tensor):
            mapped = tensor.data
            tensor.data = mapped.clone()
            files.release(mapped)


def trim_heap() -> None:
    """Give what was freed back to the system, where the C library has kept it for later."""
    if hasattr(_libc(), "malloc_trim"):
        _libc().malloc_trim(0)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _unchanged_files() -> Iterator[tuple[int, int]]:
    """From where to where each file is mapped of which no page was changed here, after /proc/self/smaps."""
    try:
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    low = high = ""
    for line in lines:
        first, *rest = line.split(maxsplit=5)
        if not first.endswith(":"):
            # Addresses, permissions, offset, device, inode (0: memory that no file stands behind), path.
            low, _, high = first.partition("-")
            is_file = rest[3] != "0"
        elif first == "Anonymous:" and is_file and rest[0] == "0":
            # Pages that were written to would be anonymous ones.
            yield int(low, 16), int(high, 16)

"""Memory that a process holds although nothing uses it: pages of mapped files and libraries, and what was freed."""

import ctypes
import mmap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

# The compiler under numba: 50 MB of code, hardly any of which runs once functions are compiled.
COMPILER = "libllvmlite"
# madvise(2): unmaps pages; a file's are read again where they are needed again.
_UNMAP = getattr(mmap, "MADV_DONTNEED", None)


# Of a page's 64 bits in /proc/self/pagemap: it is in memory; it is swapped out; it is a file's, or shared.
_PRESENT, _SWAPPED, _OF_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))


class MappedFiles:
    """The files that this process had mapped when this was made; none where the system tells of none."""

    def __init__(self) -> None:
        self._ranges = [*_mapped_files()]

    def has(self, tensor: Tensor) -> bool:
        """Whether the tensor lies in one of them, and no page of it was changed here."""
        if tensor.is_mkldnn or tensor.device.type != "cpu" or not tensor.is_contiguous():
            return False
        start = tensor.data_ptr()
        end = start + tensor.numel() * tensor.element_size()
        is_mapped = start < end and any(low <= start and end <= high for low, high in self._ranges)
        return is_mapped and _is_unchanged(start, end)

    def release(self, tensor: Tensor) -> None:
        """Give back the pages that lie within a tensor of such a file: it has been read, and will hardly be again.

        Any other tensor stays as it is: of memory that no file stands behind, the contents would be lost.
        """
        if _UNMAP is None or not self.has(tensor):
            return
        start = tensor.data_ptr()
        _unmap(start, start + tensor.numel() * tensor.element_size())


def copy_out_of_files(model: nn.Module, files: MappedFiles) -> None:
    """Copy weights that lie in mapped files into memory of their own; those that share one go on sharing it."""
    for tensor in (*model.parameters(), *model.buffers()):
        if files.has(tensor):
            mapped = tensor.data
            tensor.data = mapped.clone()
            files.release(mapped)


def trim() -> None:
    """Give back to the system what was freed, where the C library has kept it for later, and the compiler's code."""
    trim_code()
    if hasattr(_libc(), "malloc_trim"):
        _libc().malloc_trim(0)


def trim_code(library: str = COMPILER) -> None:
    """Give back the pages of code of a library whose file's name begins so; what runs again is read again."""
    for start, end in _mapped_files(code_of=library):
        if _UNMAP is not None and _is_unchanged(start, end):
            _unmap(start, end)


def _unmap(start: int, end: int) -> None:
    """Unmap the whole pages between two addresses, which are an unchanged file's."""
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if first < last:
        _libc().madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _UNMAP)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _mapped_files(code_of: str | None = None) -> Iterator[tuple[int, int]]:
    """From where to where each file is mapped, after /proc/self/maps. smaps says more, but for that the system looks at
    every page that the process holds, at each loading of a model. code_of: how the names of files begin, of which only
    what can be executed and not written to is wanted."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        # Addresses, permissions, offset, device, inode (0: memory that no file stands behind), path.
        addresses, permissions, _, _, inode, *path = line.split(maxsplit=5)
        is_code = permissions.startswith("r-x") and Path(path[0] if path else "").name.startswith(code_of or "")
        if inode != "0" and (code_of is None or is_code):
            low, _, high = addresses.partition("-")
            yield int(low, 16), int(high, 16)


def _is_unchanged(start: int, end: int) -> bool:
    """Whether each page from one address to the other is still its file's: one that was written to is the process's own
    instead, in memory or swapped out."""
    first, last = start // mmap.PAGESIZE, -(-end // mmap.PAGESIZE)
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(8 * first)
            pages = np.frombuffer(pagemap.read(8 * (last - first)), dtype=np.uint64)
    except OSError:
        return False
    is_own = (pages & _PRESENT > 0) & (pages & _OF_FILE == 0) | (pages & _SWAPPED > 0)
    return len(pages) == last - first and not is_own.any()

"""GGUF files: which one a model's name means, and a file's header, read without its weights."""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from glob import escape as glob_escape
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..errors import UnsupportedModel
from .options import LoadOptions
from .schemes import is_there

SUFFIX = ".gguf"
_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY = 8, 9
# How each type of a value is packed, all but those two.
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# Types of tensors that are no blocks of quantised weights.
_DTYPES = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
# How llama.cpp names the parts of a split model.
_PART = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")
# Not even a vocabulary of a million entries takes more.
_MOST_HEADER = 1 << 30


@dataclass(frozen=True, kw_only=True)
class GgufTensor:
    """A tensor of a file. shape: its rows last. type_id: how it is stored, as ggml numbers it. offset: in bytes behind
    the header."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int

    @property
    def num_weights(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class GgufHeader:
    """What a file says of itself. metadata: keys and values; of an array its length. data_start: where the tensors
    begin, in bytes."""

    metadata: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]
    data_start: int

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture"))

    @property
    def kind(self) -> str:
        """What the file holds: a `model`, an `adapter`, the projector of a vision model (`mmproj`), or another."""
        return "mmproj" if self.architecture == "clip" else str(self.metadata.get("general.type", "model"))

    @property
    def num_weights(self) -> int:
        return sum(tensor.num_weights for tensor in self.tensors)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The narrowest type in which weights are stored as numbers: norms are float32 in any file. Blocks of quantised
        weights have none, and are read into float32."""
        types = {tensor.type_id for tensor in self.tensors}
        halves = [dtype for id, dtype in _DTYPES.items() if id in types and dtype != torch.float32]
        return halves[0] if len(halves) == 1 and types <= {*_DTYPES} else torch.float32


def gguf_of(path: Path, options: LoadOptions) -> Path | None:
    """The GGUF file that is meant: the path itself, the one of the folder that the options name, or the only one of a
    folder that holds no model of another kind. None where no such file is there."""
    if options.gguf_file is not None:
        file = path / options.gguf_file
        return file if is_there(file) and file.is_file() else None
    if not is_there(path):
        return None
    if path.is_file():
        return path if path.suffix.lower() == SUFFIX or _begins_as_gguf(path) else None
    files = ggufs_in(path)
    holds_other = is_there(path / "config.json") or is_there(path / "adapter_config.json")
    return path / files[0] if len(files) == 1 and not holds_other else None


def ggufs_in(folder: Path) -> list[str]:
    """Names of the GGUF files in a folder; none of one that cannot be read."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() == SUFFIX and entry.is_file())
    except OSError:
        return []


def parts_of_split(file: Path) -> list[Path]:
    """All parts of a model that was split into files, if this is one of them; else the file alone."""
    match = _PART.fullmatch(file.name)
    return sorted(file.parent.glob(f"{glob_escape(match[1])}-?????-of-{match[2]}{SUFFIX}")) if match else [file]


def read_gguf_header(file: Path) -> GgufHeader:
    """Raises UnsupportedModel, with file and reason, for one that is broken or no GGUF file."""
    try:
        with file.open("rb") as opened:
            return _HeaderReader(opened, min(file.stat().st_size, _MOST_HEADER)).read()
    except OSError as error:
        raise UnsupportedModel(f"the GGUF file {str(file)!r} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UnsupportedModel(
            f"the GGUF file {str(file)!r} ({file.stat().st_size} bytes) {error}; copy or download it again"
        ) from error


def _begins_as_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as opened:
            return opened.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


class _HeaderReader:
    """Reads a header, and raises ValueError, what a file does wrong, for one that is broken."""

    def __init__(self, opened: BinaryIO, size: int) -> None:
        self._opened, self._size = opened, size

    def read(self) -> GgufHeader:
        if self._opened.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("does not begin with the letters GGUF, so that it is none")
        (version,) = self._unpacked("I")
        if version not in _VERSIONS:
            raise ValueError(f"is of version {version} of the format; versions {_VERSIONS} in little-endian are read")
        num_tensors, num_values = self._unpacked("QQ")
        metadata = {}
        for _ in range(num_values):
            key = self._string()
            metadata[key] = self._value(*self._unpacked("I"))
        tensors = tuple(self._tensor() for _ in range(num_tensors))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"aligns its tensors to {alignment!r} bytes")
        end = self._opened.tell()
        return GgufHeader(metadata=metadata, tensors=tensors, data_start=end + -end % alignment)

    def _bytes(self, count: int) -> bytes:
        # Counts of a broken file may be larger than any memory.
        if self._opened.tell() + count > self._size:
            raise ValueError("ends before its header does: it is truncated")
        return self._opened.read(count)

    def _unpacked(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{form}", self._bytes(struct.calcsize(f"<{form}")))

    def _string(self) -> str:
        return self._bytes(*self._unpacked("Q")).decode("utf-8", "replace")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._unpacked(_format(kind))[0]
        of, count = self._unpacked("IQ")
        if of == _STRING:
            for _ in range(count):
                self._bytes(*self._unpacked("Q"))
        else:
            self._bytes(count * struct.calcsize(_format(of)))
        return count

    def _tensor(self) -> GgufTensor:
        name = self._string()
        (num_dims,) = self._unpacked("I")
        shape = self._unpacked("Q" * num_dims) if num_dims <= 8 else ()
        type_id, offset = self._unpacked("IQ")
        return GgufTensor(name=name, shape=shape[::-1], type_id=type_id, offset=offset)


def _format(kind: int) -> str:
    if kind not in _FORMATS:
        raise ValueError(f"has a value of the unknown type {kind}")
    return _FORMATS[kind]

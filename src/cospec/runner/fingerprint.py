"""A model's fingerprint: a hash that changes with its files, cheap enough to be taken before anything is loaded."""

import json
import os
from collections.abc import Iterator
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from .. import demo
from ..errors import CospecError
from ..resume import DIGEST, UNKNOWN
from .gguf import gguf_of, read_gguf_header
from .options import LoadOptions
from .schemes import DEFAULT, is_there, split

# Files up to this size are hashed whole; of a larger one these many bytes at these many places.
MOST_HASHED, NUM_BYTES, NUM_PLACES = 1 << 20, 256, 256
# A longer header of safetensors is none: the format allows 100 MB.
MOST_HEADER = 100_000_000
# What a model's answers depend on. Readmes, pictures and logs may change.
_KINDS = (".json", ".safetensors", ".bin", ".pt", ".pth", ".model", ".txt", ".jinja", ".py", ".gguf")

_USUAL = LoadOptions()


def is_local(model: str) -> bool:
    """Whether the model's files lie in a folder of its own."""
    rest = split(model)[1]
    return demo.is_demo(model) or (bool(rest) and is_there(Path(os.path.expanduser(rest))))


def fingerprint(model: str, options: LoadOptions = _USUAL) -> str | None:
    """A hash of the model's files, or a hub model's commit, UNKNOWN until it is downloaded; None for what has no files.

    Of weights in safetensors or GGUF it covers the header and a part of each tensor: a changed tensor changes it, a
    copy of the folder does not. Of a folder with GGUF files only the one that is meant counts.
    """
    scheme, rest = split(model)
    path = Path(os.path.expanduser(demo.model_path(model) if demo.is_demo(model) else rest))
    if not rest:
        return None
    if not is_there(path):
        return _commit(rest, options) if scheme == DEFAULT else None
    path = gguf_of(path, options) or path
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.is_file() and each.suffix in _KINDS)
    else:
        files = [path] if path.is_file() else []
    hashed = blake2b(digest_size=8)
    for file in files:
        hashed.update(json.dumps([file.name, file.stat().st_size]).encode())
        for part in _parts(file):
            hashed.update(part)
    return DIGEST + hashed.hexdigest()


def _parts(file: Path) -> Iterator[bytes]:
    """What is hashed of a file."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        if size <= MOST_HASHED:
            yield opened.read()
            return
        parts = _parts_of_tensors(opened, size) if file.suffix == ".safetensors" else _parts_of_gguf(file, size)
        for place, length in parts or [(size * i // NUM_PLACES, NUM_BYTES) for i in range(NUM_PLACES)]:
            opened.seek(place)
            yield opened.read(length)


def _parts_of_tensors(opened: BinaryIO, size: int) -> list[tuple[int, int]]:
    """Places and lengths of the header of safetensors and of a part of each tensor; none for a broken file."""
    # The header's length in eight bytes, then each tensor's extent as JSON, behind which the tensors lie.
    length = int.from_bytes(opened.read(8), "little")
    if 8 + length > min(size, MOST_HEADER):
        return []
    try:
        tensors = json.loads(opened.read(length))
        extents = [tensor["data_offsets"] for name, tensor in tensors.items() if name != "__metadata__"]
        places = [8 + length + (begin + end) // 2 for begin, end in extents]
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return []
    is_whole = all(isinstance(place, int) and 0 <= place <= size for place in places)
    return [(8, length), *((place, NUM_BYTES) for place in places)] if is_whole else []


def _parts_of_gguf(file: Path, size: int) -> list[tuple[int, int]]:
    """The same of a GGUF file; none for any other."""
    try:
        header = read_gguf_header(file)
    except CospecError:
        return []
    begins = sorted(header.data_start + tensor.offset for tensor in header.tensors)
    places = [(begin + end) // 2 for begin, end in pairwise([*begins, size])]
    is_whole = all(0 <= place <= size for place in places)
    return [(0, header.data_start), *((place, NUM_BYTES) for place in places)] if is_whole else []


def _commit(repository: str, options: LoadOptions) -> str | None:
    """The commit of a hub model in the cache; None for a name that the hub cannot have."""
    file = options.gguf_file or "config.json"
    try:
        found = try_to_load_from_cache(repository, file, revision=options.revision)
    except HFValidationError:
        return None
    # A file may lie in a folder of the repository.
    return f"{DIGEST}{Path(found).parents[file.count('/')].name}" if isinstance(found, str) else UNKNOWN

"""A model's fingerprint: a hash that changes with its files, cheap enough to be taken before anything is loaded."""

import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from .. import demo
from ..resume import DIGEST, UNKNOWN
from .schemes import DEFAULT, split

# Files up to this size are hashed whole; of a larger one these many bytes at these many places.
MOST_HASHED, NUM_BYTES, NUM_PLACES = 1 << 20, 256, 256
# What a model's answers depend on. Readmes, pictures and logs may change.
_KINDS = (".json", ".safetensors", ".bin", ".pt", ".pth", ".model", ".txt", ".jinja", ".py", ".gguf")


def is_local(model: str) -> bool:
    """Whether the model's files lie in a folder of its own."""
    rest = split(model)[1]
    return demo.is_demo(model) or (bool(rest) and Path(rest).expanduser().exists())


def fingerprint(model: str, revision: str | None = None) -> str | None:
    """A hash of the model's files, or a hub model's commit, UNKNOWN until it is downloaded; None for what has no files.

    Of weights in safetensors it covers the header and a part of each tensor: a changed tensor changes it, a copy of
    the folder does not.
    """
    scheme, rest = split(model)
    path = Path(demo.model_path(model) if demo.is_demo(model) else rest).expanduser()
    if not rest:
        return None
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.is_file() and each.suffix in _KINDS)
    elif path.is_file():
        files = [path]
    else:
        return _commit(rest, revision) if scheme == DEFAULT else None
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
        places: Sequence[int] = [size * i // NUM_PLACES for i in range(NUM_PLACES)]
        if file.suffix == ".safetensors":
            # The header's length in eight bytes, then each tensor's extent as JSON, behind which the tensors lie.
            start = 8 + int.from_bytes(opened.read(8), "little")
            header = opened.read(start - 8)
            yield header
            extents = (tensor["data_offsets"] for name, tensor in json.loads(header).items() if name != "__metadata__")
            places = [start + (begin + end) // 2 for begin, end in extents]
        for place in places:
            opened.seek(place)
            yield opened.read(NUM_BYTES)


def _commit(repository: str, revision: str | None) -> str | None:
    """The commit of a hub model in the cache; None for a name that the hub cannot have."""
    try:
        found = try_to_load_from_cache(repository, "config.json", revision=revision)
    except HFValidationError:
        return None
    return f"{DIGEST}{Path(found).parent.name}" if isinstance(found, str) else UNKNOWN

"""Where a model lies: a folder or GGUF file here, or a model of the Hugging Face hub, whose files are fetched into its
cache.

What looks like a path is never asked of the hub.
"""

import difflib
import os
import re
from pathlib import Path

from ...errors import ModelNotFound
from ..gguf import SUFFIX, gguf_of, ggufs_in
from ..options import LoadOptions
from ..parts import ADAPTER
from ..schemes import is_there
from . import hub
from .checkpoint import ADVICE, CONFIG

_WEIGHT_FILES = (SUFFIX, ".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_DRIVE = re.compile(r"[a-zA-Z]:[\\/]")
MOST_NAMES = 5


def locate(name: str, options: LoadOptions) -> Path:
    """The GGUF file, or the folder that holds the model, of the hub's cache if it comes from there.

    Raises ModelNotFound where nothing is there, with the names that are close to it.
    """
    if not name.strip():
        raise ModelNotFound(f"the name of a model is {name!r}; {ADVICE}")
    path = Path(os.path.expanduser(name))
    if not is_there(path) and not _looks_local(name):
        return hub.fetch(name, options, _did_you_mean(path))
    if options.revision is not None and is_there(path):
        raise ModelNotFound(
            f"revision {options.revision!r} was given for {name!r}, which is a {'folder' if path.is_dir() else 'file'}"
            "; leave it out, or give it to the hub's models alone (in an ensemble file each member may have its own)"
        )
    if file := gguf_of(path, options):
        return file
    if path.is_file():
        raise ModelNotFound(f"{name!r} is a file; {ADVICE}, such as {str(path.parent)!r}")
    if not path.is_dir():
        kind = "GGUF file" if name.lower().endswith(SUFFIX) else "model folder"
        raise ModelNotFound(f"no {kind} at {name!r}{_did_you_mean(path) or _others(path)}; {ADVICE}")
    _check_gguf_files(name, path, options)
    return path


def _check_gguf_files(name: str, folder: Path, options: LoadOptions) -> None:
    """Raises ModelNotFound for a folder in which the GGUF file named is not, or in which none of several is."""
    files = ggufs_in(folder)
    listed = ", ".join(files[:MOST_NAMES]) + (", …" if len(files) > MOST_NAMES else "")
    if options.gguf_file is not None:
        there = f"it holds {listed}" if files else "it holds no GGUF file"
        raise ModelNotFound(f"{name!r} has no file {options.gguf_file!r} (gguf_file); {there}")
    if files and not any(is_there(folder / other) for other in (CONFIG, ADAPTER)):
        raise ModelNotFound(
            f"{name!r} holds {len(files)} GGUF files ({listed}); name one: {str(folder / files[0])!r}, or gguf_file in "
            "an ensemble file"
        )


def _looks_local(name: str) -> bool:
    """Whether a name that is no file or folder is a path all the same, mistyped or gone."""
    is_id = name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")
    is_written_as_path = "\\" in name or _DRIVE.match(name) or name.lower().endswith(_WEIGHT_FILES)
    if not is_id or is_written_as_path:
        return True
    # A folder that is called like the owner was probably meant, unless the model has been fetched before.
    return is_there(Path(name).parent) and not hub.is_cached(name)


def _did_you_mean(path: Path) -> str:
    """The path whose names are closest to this one's, where one exists; else ""."""
    parent, rest = _split(path)
    for close in difflib.get_close_matches(rest[0], _names(parent)):
        if is_there(meant := parent.joinpath(close, *rest[1:])):
            return f"; did you mean {str(meant)!r}?"
    return ""


def _others(path: Path) -> str:
    """The models that lie where the path leaves what exists; "" where none do."""
    parent, _ = _split(path)
    models = [str(parent / name) for name in _names(parent) if is_there(parent / name / CONFIG)]
    more = ", …" if len(models) > MOST_NAMES else ""
    return f"; {parent} holds {', '.join(models[:MOST_NAMES])}{more}" if models else ""


def _split(path: Path) -> tuple[Path, list[str]]:
    """The last folder on the way that exists, and the names after it."""
    parent, rest = path.parent, [path.name]
    while not is_there(parent) and parent != parent.parent:
        parent, rest = parent.parent, [parent.name, *rest]
    return parent, rest


def _names(folder: Path) -> list[str]:
    """The folders and files with weights in a folder; none of one that cannot be read."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() or entry.suffix in _WEIGHT_FILES)
    except (OSError, ValueError):
        return []

"""Where a model lies: a folder here, or a model of the Hugging Face hub, whose files are fetched into its cache.

What looks like a path is never asked of the hub.
"""

import difflib
import os
import re
from pathlib import Path

from ...errors import ModelNotFound, UnsupportedModel
from ..options import LoadOptions
from ..schemes import is_there
from . import hub
from .checkpoint import ADVICE, CONFIG, gguf_advice

_WEIGHT_FILES = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_DRIVE = re.compile(r"[a-zA-Z]:[\\/]")
MOST_NAMES = 5


def locate(name: str, options: LoadOptions) -> Path:
    """The folder that holds the model, of the hub's cache if it comes from there.

    Raises ModelNotFound where nothing is there, with the names that are close to it, and UnsupportedModel for a file.
    """
    if not name.strip():
        raise ModelNotFound(f"the name of a model is {name!r}; {ADVICE}")
    path = Path(os.path.expanduser(name))
    if not is_there(path) and not _looks_local(name):
        return hub.fetch(name, options, _did_you_mean(path))
    if options.revision is not None and is_there(path):
        raise ModelNotFound(
            f"revision {options.revision!r} was given for {name!r}, which is a folder; leave it out, or give it to the "
            "hub's models alone (in an ensemble file each member may have its own)"
        )
    if name.lower().endswith(".gguf"):
        what = "is" if is_there(path) else "is not there, and would be"
        raise UnsupportedModel(f"{name!r} {what} a GGUF file, which is not read; {gguf_advice(path.parent, path.name)}")
    if path.is_file():
        raise ModelNotFound(f"{name!r} is a file; {ADVICE}, such as {str(path.parent)!r}")
    if not path.is_dir():
        raise ModelNotFound(f"no model folder at {name!r}{_did_you_mean(path) or _others(path)}; {ADVICE}")
    return path


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

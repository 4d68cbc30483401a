"""What a model's name stands for: a whole model, or an adapter on one, its first layers, some of its tokens; or a
drafting head that reads its embedding."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import demo
from ..errors import CospecError, ModelNotFound, UnsupportedModel, shown
from ..inputs import decoded, parse_json
from .gguf import gguf_of, read_gguf_header
from .options import LoadOptions
from .schemes import DEFAULT, has_scheme, is_there, split

# PEFT's description of an adapter, and ours of a drafter, each beside the weights.
ADAPTER, DRAFTER = "adapter_config.json", "cospec.json"
# A drafting head's own weights.
HEAD_WEIGHTS = "head.safetensors"
AGAIN = "copy or download it again"
ADVICE = "give the model that it was trained on as `base` (a key of the member's entry, or LoadOptions(base=...))"


@dataclass(frozen=True, kw_only=True)
class HeadParts:
    """A drafting head, as its cospec.json describes it. folder: where it lies. members: how many it reads the hidden
    states of. hidden: numbers of each. width: of its cell. vocabulary: the tokens that it proposes among."""

    folder: Path
    members: int
    hidden: int
    width: int
    vocabulary: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Which model is read, and what of it is decoded.

    whole: the model, as a member names it. options: how it is read. adapter: the folder of an adapter that is put on
    it, or the GGUF file of one; None for none. layers: its first so many; None for all. vocabulary: the tokens that it
    proposes among, or how many of the most frequent; None for all. acceptance: the mean 1 - TV of its proposals where
    it was distilled; None where nothing says so. head: the drafting head that is meant, of which `whole` is the model
    whose embedding it reads; None for none.
    """

    whole: str
    options: LoadOptions
    adapter: Path | None = None
    layers: int | None = None
    vocabulary: int | tuple[int, ...] | None = None
    acceptance: float | None = None
    head: HeadParts | None = None

    @property
    def is_whole(self) -> bool:
        return self.adapter is None and self.layers is None and self.vocabulary is None and self.head is None


def parts_of(model: str, options: LoadOptions, folder: Path | None = None) -> Parts:
    """The parts of a model, by its folder: the one given, or the one of that name here, if there is one.

    Raises UnsupportedModel for a file that cannot be read, and ModelNotFound for an adapter or head whose base is not
    named.
    """
    folder = folder or local_folder(model)
    own = read_json(model, folder / DRAFTER) if folder and is_there(folder / DRAFTER) else {}
    layers, vocabulary, acceptance = _layers(model, own), _vocabulary(model, own), _acceptance(model, own)
    whole, whole_options = model, replace(options, base=None, layers=None, vocabulary=None)
    if folder is not None and "head" in own:
        return _head_parts(model, folder, own, options)
    adapter = folder if folder and is_there(folder / ADAPTER) else None
    if adapter is not None:
        config = read_json(model, adapter / ADAPTER)
        whole = options.base or _named_base(model, adapter, config)
        # The adapter's revision is not its base's.
        revision = None if options.base or local_folder(whole) else config.get("revision")
        whole_options = replace(whole_options, revision=revision)
    elif options.base is not None:
        adapter = _adapter_file(folder, options)
        if adapter is None:
            raise UnsupportedModel(
                f"{model!r} has the base {options.base!r}, and is no adapter: it has no {ADAPTER}, and is no GGUF file "
                "of an adapter; leave `base` out"
            )
        whole, whole_options = options.base, replace(whole_options, gguf_file=None)
    return Parts(
        whole=whole,
        options=whole_options,
        adapter=adapter,
        layers=options.layers or layers,
        vocabulary=options.vocabulary or vocabulary,
        # Of another part it says nothing.
        acceptance=None if options.layers or options.vocabulary else acceptance,
    )


def _head_parts(model: str, folder: Path, own: Mapping[str, Any], options: LoadOptions) -> Parts:
    """Those of a drafting head. Raises UnsupportedModel for a description that lacks something, or a model's option."""
    for name in ("layers", "vocabulary"):
        if getattr(options, name) is not None:
            raise UnsupportedModel(f"{model!r} is a drafting head, and {name} is a model's; leave `{name}` out")
    shape, vocabulary = own["head"], _vocabulary(model, own)
    names = ("members", "hidden", "width")
    counts: list[Any] = [shape.get(name) for name in names] if isinstance(shape, dict) else []
    if not counts or not all(isinstance(count, int) and not isinstance(count, bool) and count > 0 for count in counts):
        raise UnsupportedModel(
            f"{model!r}: head of its {DRAFTER} is {shown(shape)}; it must have {', '.join(names)}, each a whole number "
            "of at least 1"
        )
    members, hidden, width = counts
    if vocabulary is None:
        raise UnsupportedModel(
            f"{model!r}: its {DRAFTER} has a head, and no vocabulary that this proposes among; {AGAIN}"
        )
    named = options.base or own.get("base")
    if not isinstance(named, str) or not named.strip():
        raise ModelNotFound(
            f"{model!r} is a drafting head, and its {DRAFTER} names no base, whose embedding it reads; {AGAIN}"
        )
    return Parts(
        whole=options.base or _beside(folder, named),
        # The head's revision is not its base's.
        options=replace(options, base=None, revision=None),
        acceptance=_acceptance(model, own),
        head=HeadParts(folder=folder, members=members, hidden=hidden, width=width, vocabulary=vocabulary),
    )


def local_folder(model: str) -> Path | None:
    """The folder or file here that a model's name stands for; None for a model from elsewhere, or of another runner."""
    scheme, rest = split(model)
    if scheme not in (DEFAULT, demo.PREFIX.removesuffix(":")) or not rest:
        return None
    path = Path(os.path.expanduser(demo.model_path(model) if demo.is_demo(model) else rest))
    return path if is_there(path) else None


def hidden_size(model: str, options: LoadOptions) -> int | None:
    """Numbers of a hidden state, as the configuration of a folder here says; None where nothing does."""
    folder = local_folder(parts_of(model, options).whole)
    if folder is None or not is_there(folder / "config.json"):
        return None
    config = read_json(model, folder / "config.json")
    text = config.get("text_config", config)
    size = text.get("hidden_size") if isinstance(text, dict) else None
    return size if isinstance(size, int) else None


def _adapter_file(folder: Path | None, options: LoadOptions) -> Path | None:
    """The GGUF file of an adapter that is meant; None where it is none."""
    file = gguf_of(folder, options) if folder else None
    return file if file and read_gguf_header(file).kind == "adapter" else None


def _named_base(model: str, folder: Path, config: Mapping[str, Any]) -> str:
    """The base that the adapter's configuration names: a path from its own folder or from here, or any other model."""
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named.strip():
        raise ModelNotFound(f"{model!r} is an adapter, and its {ADAPTER} names no base_model_name_or_path; {ADVICE}")
    return _beside(folder, named)


def _beside(folder: Path, named: str) -> str:
    """A model as files of a folder name it: a path from there, or from here, or any other model."""
    beside = folder / os.path.expanduser(named)
    return str(beside) if not has_scheme(named) and is_there(beside) else named


def _layers(model: str, own: Mapping[str, Any]) -> int | None:
    layers = own.get("layers")
    if layers is None or (isinstance(layers, int) and not isinstance(layers, bool) and layers > 0):
        return layers
    raise UnsupportedModel(f"{model!r}: layers of its {DRAFTER} is {shown(layers)}; it must be a number of layers")


def _vocabulary(model: str, own: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Raises UnsupportedModel for what is no list of different token ids."""
    ids = own.get("vocabulary")
    if ids is None:
        return None
    is_list = isinstance(ids, list) and all(isinstance(token, int) and not isinstance(token, bool) for token in ids)
    if not is_list or not ids or min(ids) < 0 or len({*ids}) < len(ids):
        raise UnsupportedModel(
            f"{model!r}: vocabulary of its {DRAFTER} is {shown(ids)}; it must be a list of token ids, each once"
        )
    return tuple(ids)


def _acceptance(model: str, own: Mapping[str, Any]) -> float | None:
    value = own.get("acceptance")
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1):
        return value
    raise UnsupportedModel(f"{model!r}: acceptance of its {DRAFTER} is {shown(value)}; it must be a number from 0 to 1")


def read_json(name: str, path: Path) -> dict[str, Any]:
    """The object that a file of a model holds. Raises UnsupportedModel, with the model and the file."""
    try:
        raw = path.read_bytes()
        value = parse_json(decoded(raw, str(path), UnsupportedModel), str(path), UnsupportedModel) if raw else None
    except OSError as error:
        reason = error.strerror or error
        raise UnsupportedModel(f"model {name!r} cannot be read: {path}: {reason}; {AGAIN}") from None
    except CospecError as error:
        raise UnsupportedModel(f"model {name!r} cannot be read: {error}; {AGAIN}") from None
    if isinstance(value, dict):
        return value
    given = f"holds {json.dumps(value)[:40]}, not an object" if raw else "is empty"
    raise UnsupportedModel(f"model {name!r} cannot be read: {path} {given}; {AGAIN}")

"""A model's folder, checked before transformers reads it, whose own errors name neither the file nor the remedy."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, __version__

from ...errors import CospecError, ModelNotFound, UnsupportedModel, one_line
from ..gguf import ggufs_in
from ..options import LoadOptions
from ..parts import ADAPTER, AGAIN, HEAD_WEIGHTS, read_json

ADVICE = "give a folder with config.json and safetensors, a GGUF file, or a hub id (owner/name)"
CONFIG = "config.json"
# The weights that transformers reads, in the order in which it looks for them: whole, and as an index of shards.
_SAFE = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# Those of an adapter, the pickled ones last.
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# Small files that transformers reads where they stand; broken ones it passes over in silence, or by a riddle.
_OTHERS = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip


def read_config(name: str, folder: Path, options: LoadOptions) -> dict[str, Any]:
    """The folder's config.json. Raises ModelNotFound or UnsupportedModel for what is no model that can be read."""
    _refuse_other_formats(name, folder)
    config = read_json(name, folder / CONFIG)
    for other in _OTHERS:
        if (folder / other).exists():
            read_json(name, folder / other)
    kind, code = config.get("model_type"), config.get("auto_map")
    is_known = isinstance(kind, str) and kind in CONFIG_MAPPING
    if code and not is_known and not options.trust_remote_code:
        raise UnsupportedModel(remote_code_message(name, folder, config))
    if kind is None and not code:
        raise UnsupportedModel(f"{name!r}: {folder / CONFIG} names no model_type; {ADVICE}")
    if not is_known and not code:
        raise UnsupportedModel(
            f"{name!r} is of the model type {kind!r} ({folder / CONFIG}), which transformers {__version__} does not "
            "know; upgrade transformers if it is a newer model, or choose another"
        )
    return config


def check_weights(name: str, folder: Path, options: LoadOptions) -> None:
    """Raises ModelNotFound where weights are missing, or pickles are not allowed, UnsupportedModel for broken ones."""
    chosen = weights_among({file.name for file in folder.iterdir()})
    if chosen is None:
        files = ggufs_in(folder)
        instead = f"name the GGUF file that is meant (gguf_file: {files[0]})" if files else ADVICE
        raise ModelNotFound(f"{called(name, folder)} has neither {' nor '.join(_SAFE)}; {instead}")
    check_pickle(name, chosen, options)
    files = files_of(name, folder, chosen)
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise ModelNotFound(
            f"{name!r} lacks {len(missing)} of {len(files)} files with its weights, the first being "
            f"{str(folder / missing[0])!r}; {AGAIN}"
        )
    for file in files:
        if file.endswith(".safetensors"):
            check_safetensors(name, folder / file)


def weights_among(names: Collection[str]) -> str | None:
    """The file that weights are read from first: all of them, or an index of shards; an adapter's, or a drafting
    head's."""
    known = ADAPTER_WEIGHTS if ADAPTER in names else (HEAD_WEIGHTS, *_SAFE, *_PICKLED)
    return next((file for file in known if file in names), None)


def files_of(name: str, folder: Path, chosen: str) -> list[str]:
    """All files with weights, where this one is what transformers begins with. Raises UnsupportedModel."""
    if not chosen.endswith(".json"):
        return [chosen]
    files = read_json(name, folder / chosen).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise UnsupportedModel(f"{name!r}: {folder / chosen} maps no weights to files (weight_map); {AGAIN}")
    return sorted(set(files.values()))


def check_pickle(name: str, chosen: str, options: LoadOptions) -> None:
    """Raises ModelNotFound for weights that can run code, unless that is allowed."""
    if chosen in (*_PICKLED, ADAPTER_WEIGHTS[1]) and not options.allow_pickle:
        raise ModelNotFound(
            f"{name!r} stores its weights only as pickle ({chosen}), which can run code when it is read; convert them "
            "to safetensors, or, if you trust their source, set allow_pickle (--allow-pickle)"
        )


def header_shapes(file: Path) -> dict[str, list[int]]:
    """The shape of each tensor of a file of safetensors."""
    with safe_open(str(file), framework="pt") as opened:
        return {key: list(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118, it is no mapping


def check_tokenizer(name: str, folder: Path) -> bool:
    """Whether the folder has a tokenizer. Raises UnsupportedModel for one without a vocabulary."""
    if any((folder / file).exists() for file in VOCABULARIES):
        return True
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return False
    settings = read_json(name, path)
    # ByT5 and its like have bytes for a vocabulary; code that comes with a model reads what it likes.
    if settings.get("auto_map") or "Byte" in str(settings.get("tokenizer_class")) or any(folder.glob("*.tiktoken")):
        return True
    raise UnsupportedModel(
        f"{called(name, folder)} has tokenizer_config.json and no vocabulary "
        f"({', '.join(VOCABULARIES)}); copy the tokenizer's files there, or remove tokenizer_config.json to give "
        "prompts as token ids"
    )


def remote_code_message(name: str, folder: Path, config: Mapping[str, Any]) -> str:
    """The refusal of a model that only code of its own can load."""
    files = ", ".join(sorted(file.name for file in folder.glob("*.py"))) or "of another model"
    return (
        f"{name!r} ({config.get('model_type')}) needs code of its own ({files}), which runs only where that is "
        "allowed; read it, and if you trust it, set trust_remote_code (--trust-remote-code)"
    )


def called(name: str, folder: Path) -> str:
    """The model as it was given, and its folder where that is another."""
    return repr(name) if name == str(folder) else f"{name!r} ({folder})"


def merge_advice(adapter: Path) -> str:
    """What to do with an adapter that cannot be put on its base as it runs."""
    return (
        f"merge it once (pip install 'cospec[adapters]'): AutoPeftModelForCausalLM.from_pretrained({str(adapter)!r})"
        ".merge_and_unload().save_pretrained(FOLDER), save the tokenizer there too, and give that FOLDER"
    )


def _refuse_other_formats(name: str, folder: Path) -> None:
    """Raises UnsupportedModel for an adapter, ModelNotFound for a folder that holds no model."""
    if (folder / ADAPTER).exists():
        try:
            base = read_json(name, folder / ADAPTER).get("base_model_name_or_path")
        except CospecError:
            base = None
        raise UnsupportedModel(
            f"{name!r} is itself an adapter ({ADAPTER}) of {repr(base) if base else 'an unnamed base'}, and none is "
            f"put on another; {merge_advice(folder)}"
        )
    if not (folder / CONFIG).exists():
        raise ModelNotFound(f"the folder {str(folder)!r} has no {CONFIG}; {ADVICE}")


def check_safetensors(name: str, file: Path) -> None:
    """Raises UnsupportedModel for a file whose header is broken, or that ends before its tensors do."""
    try:
        with safe_open(str(file), framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise UnsupportedModel(
            f"model {name!r} cannot be loaded: {one_line(error)}; {file} ({file.stat().st_size} bytes) is truncated or "
            f"no safetensors file: {AGAIN}"
        ) from error

"""GGUF files, which transformers unpacks into ordinary weights.

The file alone is read: what lies beside it, a tokenizer or a configuration, may be another model's.
"""

import json
import logging
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    __version__,
    modeling_gguf_pytorch_utils,
)

from ...errors import MissingExtra, UnsupportedModel, one_line
from ..gguf import GgufHeader, read_gguf_header
from ..memory import check_memory
from ..options import TRANSFORMERS, LoadOptions, dtype_of
from .checkpoint import called
from .presplit import split_as_named
from .support import refuse_by_config
from .tokenizer import HfTokenizer

logger = logging.getLogger(__name__)

_PACKAGES = ("gguf", "accelerate")
_ENDS = ("eos", "eot", "eom")
# What scales rotary positions, which transformers does not read; of gpt-oss it does.
_SCALES = re.compile(r"rope_(freqs|factors_\w+)\.weight")
_LINK = "model.gguf"
_INSTEAD = "give a folder with its weights as safetensors, or another model"


def read_gguf(
    name: str, file: Path, options: LoadOptions
) -> tuple[PreTrainedModel, Mapping[str, Any], HfTokenizer | None]:
    """The model on the CPU in its type, what transformers reports of its loading, and the tokenizer, if it has one.

    Raises UnsupportedModel, DoesNotFit, or MissingExtra.
    """
    header = read_gguf_header(file)
    where = called(name, file)
    _refuse_by_header(where, header)
    if options.quantization:
        raise UnsupportedModel(
            f"{where} is a GGUF file, whose weights are unpacked, and cannot be quantised as it is loaded; leave out "
            "quantization, or give a folder with safetensors"
        )
    _check_packages(where)
    _check_extents(where, file, header)
    with _alone(file) as source:
        config = _config(where, header, source)
        refuse_by_config(name, config)
        # One of a folder is read by who asked for it.
        tokenizer = None if options.tokenizer else _tokenizer(where, header, source)
        check_memory([(str(file), replace(options, gguf_file=None, backend=TRANSFORMERS))], name=name)
        model, info = _weights(where, config, source, dtype_of(options, header.dtype))
    _check_all_used(where, header, model)
    if scaling := _unread_scaling(header):
        logger.warning(
            "%s: transformers does not read its scaling of rotary positions (%s) from a GGUF file; in long texts the "
            "model is another than in a folder of safetensors",
            *(name, scaling),
        )
    model.name_or_path = str(file)
    if model.generation_config is not None:
        model.generation_config.eos_token_id = end_ids_of(header) or None
    return model, info, tokenizer


def read_gguf_tokenizer(where: str, file: Path, header: GgufHeader) -> HfTokenizer | None:
    """The file's tokenizer, if it has one. Raises UnsupportedModel for one of a kind that transformers does not read,
    and MissingExtra."""
    _check_packages(where)
    with _alone(file) as source:
        return _tokenizer(where, header, source)


def end_ids_of(header: GgufHeader) -> list[int]:
    """The tokens that the file names as ends."""
    ids = [header.metadata.get(f"tokenizer.ggml.{end}_token_id") for end in _ENDS]
    return [id for id in dict.fromkeys(ids) if id is not None]


def refuse_other_kinds(where: str, header: GgufHeader) -> None:
    """Raises UnsupportedModel for a file that is no language model's."""
    if header.kind != "model":
        what = {
            "mmproj": "the projector of a vision model (mmproj)",
            "adapter": "an adapter",
        }.get(header.kind, f"of type {header.kind!r}")
        advice = ", or the model that this adapter is put on as `base`" if header.kind == "adapter" else ""
        raise UnsupportedModel(
            f"{where} is a GGUF file that is {what}, and no language model; give the model's own file{advice}"
        )
    if not header.tensors:
        raise UnsupportedModel(f"{where} is a GGUF file without weights; give the model's own file")


def _check_packages(where: str) -> None:
    if missing := [package for package in _PACKAGES if find_spec(package) is None]:
        raise MissingExtra(f"{where} is a GGUF file, and {' and '.join(missing)} read it: pip install 'cospec[gguf]'")


def _refuse_by_header(where: str, header: GgufHeader) -> None:
    """Raises UnsupportedModel for a file that holds no whole model."""
    refuse_other_kinds(where, header)
    parts = header.metadata.get("split.count", 1)
    if parts > 1:
        raise UnsupportedModel(
            f"{where} is one of {parts} parts of a split GGUF file, of which transformers reads only one; join them "
            "(llama-gguf-split --merge FIRST-PART WHOLE.gguf) and give the whole"
        )


def _check_extents(where: str, file: Path, header: GgufHeader) -> None:
    """Raises UnsupportedModel for a file that ends before its tensors do, or has types of them that are not known."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    size = file.stat().st_size
    for tensor in header.tensors:
        try:
            block, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.type_id)]
        except (ValueError, KeyError):
            raise UnsupportedModel(
                f"{where} stores {tensor.name!r} in the type {tensor.type_id}, which the gguf package does not know; "
                "upgrade it (pip install -U gguf), or give another file"
            ) from None
        end = header.data_start + tensor.offset + tensor.num_weights // block * num_bytes
        if end > size:
            raise UnsupportedModel(
                f"{where} is a truncated GGUF file: it has {size} bytes, and {tensor.name!r} ends at {end}; copy or "
                "download it again"
            )


@contextmanager
def _alone(file: Path) -> Iterator[dict[str, Any]]:
    """Arguments of from_pretrained for a folder in which this file is the only one."""
    with TemporaryDirectory(prefix="cospec-gguf-") as folder:
        (Path(folder) / _LINK).symlink_to(file.resolve())
        with _read_once():
            yield {"pretrained_model_name_or_path": folder, "gguf_file": _LINK, "local_files_only": True}


@contextmanager
def _read_once() -> Iterator[None]:
    """transformers reads the header for each part of a model anew, entry by entry of its vocabulary, and maps names for
    each of its modules, which takes most of the time; and it draws a progress bar that it cannot be told to leave
    out."""
    import gguf

    usual: list[tuple[Any, str, Any]] = [(gguf, "get_tensor_name_map", cache)]
    usual += [(gguf, "GGUFReader", lambda reader: cache(_at_once(reader)))]
    usual += [(modeling_gguf_pytorch_utils, "tqdm", partial(partial, disable=True))]
    originals = [getattr(module, name) for module, name, _ in usual]
    for (module, name, changed), original in zip(usual, originals, strict=True):
        setattr(module, name, changed(original))
    try:
        yield
    finally:
        for (module, name, _), original in zip(usual, originals, strict=True):
            setattr(module, name, original)


def _at_once(reader: Any) -> Any:
    """The gguf package's reader of a file, but for arrays: it makes several of numpy's for each entry, which takes
    seconds and 160 MB for a vocabulary. Of a file in little-endian."""
    from gguf import GGUFValueType as Kind

    class Reader(reader):  # type: ignore[misc]
        def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], Any, list[Any]]:
            kind, count = struct.unpack_from("<IQ", self.data, orig_offs) if raw_type == Kind.ARRAY else (None, 0)
            if not count or kind == Kind.ARRAY:
                of_field: tuple[int, list[Any], Any, list[Any]] = super()._get_field_parts(orig_offs, raw_type)
                return of_field
            start = orig_offs + struct.calcsize("<IQ")
            if kind == Kind.STRING:
                entries, end = _strings(memoryview(self.data), start, count)
            else:
                found = self._get(start, self.gguf_scalar_to_np[Kind(kind)], count)
                entries, end = [(value,) for value in found.tolist()], start + found.nbytes
            # What an entry is read from, by its place among the parts, in front of which stand kind and count.
            return end - orig_offs, [(kind,), (count,), *entries], range(2, 2 + count), [Kind.ARRAY, Kind(kind)]

    return Reader


def _strings(file: memoryview, start: int, count: int) -> tuple[list[Any], int]:
    """So many strings from an offset on, and where they end."""
    found, length = [], struct.Struct("<Q")
    for _ in range(count):
        start, end = start + length.size, start + length.size + length.unpack_from(file, start)[0]
        found.append(bytes(file[start:end]))
        start = end
    return found, start


def _config(where: str, header: GgufHeader, source: Mapping[str, Any]) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(**source)
    except Exception as error:  # transformers may raise anything
        raise UnsupportedModel(
            f"{where} is a GGUF file of the architecture {header.architecture!r}, whose configuration transformers "
            f"{__version__} does not read: {one_line(error)}; {_INSTEAD}"
        ) from error
    return config


def _tokenizer(where: str, header: GgufHeader, source: Mapping[str, Any]) -> HfTokenizer | None:
    """Raises UnsupportedModel for one of a kind that transformers does not read."""
    if not header.metadata.get("tokenizer.ggml.tokens"):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
    except Exception as error:  # transformers, and the libraries under it, may raise anything
        kind = header.metadata.get("tokenizer.ggml.model")
        raise UnsupportedModel(
            f"the tokenizer of the GGUF file {where} ({kind}) is not read by transformers {__version__}: "
            f"{one_line(error)}; {_INSTEAD}"
        ) from error
    if header.metadata.get("tokenizer.ggml.model") == "gpt2":
        split_as_named(where, tokenizer.backend_tokenizer, header.metadata.get("tokenizer.ggml.pre"))
    count = header.metadata["tokenizer.ggml.tokens"]
    _remove_beyond(tokenizer, count)
    # Whoever converts a model fills its vocabulary up with such names.
    while count > 1 and tokenizer.convert_ids_to_tokens(count - 1) == f"[PAD{count - 1}]":
        count -= 1
    return HfTokenizer(tokenizer, num_entries=count)


def _remove_beyond(tokenizer: PreTrainedTokenizerBase, count: int) -> None:
    """Remove tokens that the file does not have, which transformers adds by default: they have no embedding."""
    if len(tokenizer) > count:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state["added_tokens"] = [entry for entry in state["added_tokens"] if entry["id"] < count]
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))


def _weights(
    where: str, config: PreTrainedConfig, source: Mapping[str, Any], dtype: torch.dtype
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """The model as ordinary weights, and what transformers reports of its loading."""
    from transformers import GgufConfig

    unpacked = GgufConfig(dequantize=True)
    try:
        answer: Any = AutoModelForCausalLM.from_pretrained(
            **source, config=config, dtype=dtype, quantization_config=unpacked, output_loading_info=True
        )
    except (ValueError, RuntimeError, NotImplementedError, KeyError) as error:
        raise UnsupportedModel(
            f"the weights of the GGUF file {where} are not read by transformers {__version__}: {one_line(error)}; "
            f"{_INSTEAD}"
        ) from error
    model, info = answer
    return model, info


def _check_all_used(where: str, header: GgufHeader, model: PreTrainedModel) -> None:
    """Raises UnsupportedModel where transformers leaves weights out, which it does in silence."""
    is_tied = bool(model.config.tie_word_embeddings)
    left_out = [tensor for tensor in header.tensors if _SCALES.fullmatch(tensor.name)]
    left_out += [tensor for tensor in header.tensors if is_tied and tensor.name == "output.weight"]
    stored = header.num_weights - sum(tensor.num_weights for tensor in left_out)
    used = sum(tensor.numel() for tensor in {*model.parameters(), *model.buffers()})
    if stored > used:
        raise UnsupportedModel(
            f"{where} is a GGUF file with {stored} weights, of which transformers {__version__} reads {used} at most: "
            f"its {model.config.model_type} has no place for the rest, such as biases; {_INSTEAD}"
        )


def _unread_scaling(header: GgufHeader) -> str | None:
    """Where the file says that rotary positions are scaled; None where it does not, or is read."""
    key = f"{header.architecture}.rope.scaling.type"
    if header.architecture == "gpt-oss":
        return None
    if header.metadata.get(key, "none") != "none":
        return key
    return next((tensor.name for tensor in header.tensors if _SCALES.fullmatch(tensor.name)), None)

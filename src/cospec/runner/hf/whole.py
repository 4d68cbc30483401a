"""Models as other engines read them: what their files say, without the weights; and what stands on a model (an adapter,
its first layers, a GGUF file) written as a whole model into a folder of its own."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, GenerationConfig, PreTrainedModel

from ... import demo
from ...errors import UnsupportedModel
from ..options import LoadOptions, dtype_of
from ..parts import Parts, local_folder, parts_of
from .adapter import HEAD, Adapter, misfits, read_adapter
from .checkpoint import called, check_weights
from .cut import first_layers
from .load import config_of, explained, load_both, read_tokenizer
from .location import locate
from .runner import context_of, end_ids_of
from .tokenizer import HfTokenizer
from .updates import has_state
from .wrapped import is_wrapper

GENERATION = "generation_config.json"


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What a model's folder says of it. config: as transformers reads it. vocab_size: without padding. dtype: that
    cospec computes in."""

    folder: Path
    config: Any
    tokenizer: HfTokenizer | None
    vocab_size: int
    end_ids: tuple[int, ...]
    context: int | None
    dtype: torch.dtype

    @property
    def has_state(self) -> bool:
        """Whether some of its layers keep a recurrent state."""
        return has_state(_class_of(self.config), self.config.get_text_config())

    @property
    def is_wrapper(self) -> bool:
        """Whether it is a model of text and images."""
        return is_wrapper(self.config)


def place_of(model: str, options: LoadOptions) -> tuple[Path, Parts]:
    """Where the whole model lies, of the hub's in its cache, and what of it is decoded. Raises as loading does."""
    folder = local_folder(model) or locate(demo.path_of(model), options)
    parts = parts_of(model, options, folder)
    return (folder if parts.adapter is None else locate(demo.path_of(parts.whole), parts.options)), parts


def outline(name: str, folder: Path, options: LoadOptions) -> Outline:
    """Raises ModelNotFound or UnsupportedModel, as loading does, for what can be told without reading weights."""
    with explained(name, folder):
        config = config_of(name, folder, options)
        check_weights(name, folder, options)
        tokenizer = read_tokenizer(name, folder, options)
        text = config.get_text_config()
        generation = GenerationConfig.from_pretrained(folder) if (folder / GENERATION).is_file() else None
        size = text.vocab_size if tokenizer is None else min(text.vocab_size, len(tokenizer.entries()))
        return Outline(
            folder=folder,
            config=config,
            tokenizer=tokenizer,
            vocab_size=size,
            end_ids=end_ids_of(name, (generation, text), tokenizer),
            context=context_of(text),
            dtype=dtype_of(options, getattr(config, "dtype", None) or torch.float32),
        )


def write_whole(name: str, options: LoadOptions, out: Path) -> None:
    """Write the model into a folder: its adapter merged, its first layers alone, a GGUF file's weights unpacked. A head
    that is cut to some tokens has all of them again.

    Raises what loading raises, and UnsupportedModel for an adapter that cannot be merged.
    """
    path, parts = place_of(name, options)
    # Sums of weights are rounded once, as they are stored.
    model, tokenizer = load_both(parts.whole, replace(parts.options, device="cpu"), path)
    if parts.layers is not None:
        model = first_layers(model, parts.layers)
    if parts.adapter is not None:
        with explained(name, parts.adapter):
            _merge(name, model, parts.adapter, options)
        tokenizer = read_tokenizer(name, parts.adapter, options) or tokenizer
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    if tokenizer is not None:
        tokenizer.save(out)


def _merge(name: str, model: PreTrainedModel, folder: Path, options: LoadOptions) -> None:
    """Add what the adapter adds to products to the weights themselves."""
    adapter = read_adapter(name, folder, options, torch.zeros((), dtype=torch.float32)).within(model, None)
    _check_mergeable(name, model, adapter, folder)
    for module, factors in adapter.factors.items():
        changed: Any = model.get_submodule(module)
        added = factors.down @ factors.up
        # GPT-2's linear layers are [in, out], all others [out, in].
        is_as_given = type(changed).__name__ == "Conv1D"
        with torch.no_grad():
            changed.weight.copy_(changed.weight.float() + (added if is_as_given else added.t()))


def _check_mergeable(name: str, model: PreTrainedModel, adapter: Adapter, folder: Path) -> None:
    where = called(name, folder)
    for misfit in misfits(adapter, model):
        raise UnsupportedModel(f"{where} does not fit its base: {misfit}; give the base that it was trained on")
    if HEAD in adapter.factors and getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        raise UnsupportedModel(
            f"{where} changes {HEAD!r}, whose weights are the embeddings too, and which it would change with it: it "
            "cannot be merged; use cospec serve, which puts it on the head alone"
        )


def _class_of(config: Any) -> Any:
    return MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config.get_text_config()), None)

"""How a text is split before a byte-level vocabulary's merges are applied, by the name that a GGUF file gives it.

transformers knows some of the names, and splits by all others as GPT-2 does. The expressions are those of the models'
own tokenizer.json, by the names of llama.cpp.
"""

import json
import logging
from collections.abc import Mapping

from tokenizers import Regex, Tokenizer, pre_tokenizers

logger = logging.getLogger(__name__)

_WHITE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT_FORMS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_LLAMA3 = rf"{_SHORT_FORMS}|{_WORD}|\p{{N}}{{1,3}}|{_OTHERS}|{_WHITE}"
_QWEN2 = rf"{_SHORT_FORMS}|{_WORD}|\p{{N}}|{_OTHERS}|{_WHITE}"
_BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}")
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_WHITE}",
)
_SEED = rf"{_SHORT_FORMS}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_WHITE}"

# What splits a text, in turn; GPT-2's own expression behind it, or none.
_BY_DIGITS = frozenset(["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"])
_WHOLE: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), (_LLAMA3,)),
    **dict.fromkeys(("qwen2", "stablelm2", "hunyuan", "grok-2", "deepseek-r1-qwen", "megrez"), (_QWEN2,)),
    **dict.fromkeys(("bloom", "poro-chat", "gpt3-finnish"), (_BLOOM,)),
    "viking": (_BLOOM, r"\p{N}"),
    "deepseek-coder": _CODER,
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense"), _DEEPSEEK3),
    "seed-coder": (_SEED,),
}
# `default` is a converter's word for a tokenizer that it did not know.
_AS_GPT2 = frozenset(
    [
        *("gpt-2", "gpt2", "default", "phi-2", "mpt", "olmo", "jais", "gigachat", "exaone4", "trillion"),
        *("granite-docling", "a.x-4.0", "mellum", "modern-bert", "roberta-bpe", "jina-es", "jina-de", "jina-v1-en"),
        *("jina-v2-es", "jina-v2-de", "jina-v2-code"),
    ]
)
# Words that are entries stay whole, whatever the merges say.
_WHOLE_WORDS = frozenset(["llama3", "llama-v3", "llama-bpe", "tekken"])


def split_as_named(where: str, backend: Tokenizer, name: str | None) -> None:
    """Split texts as this name of `tokenizer.ggml.pre` says, where transformers has left it at GPT-2's way.

    backend: of a byte-level vocabulary; it is changed. A name that is not known is reported.
    """
    if name in _WHOLE_WORDS:
        backend.model.ignore_merges = True
    kind = json.loads(backend.to_str())["pre_tokenizer"]
    if name is None or name in _AS_GPT2 or not kind or kind["type"] != "ByteLevel":
        return
    if name in _BY_DIGITS:
        backend.pre_tokenizer = _splits(r"\p{N}", as_gpt2=True)
    elif name == "falcon":
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Punctuation("contiguous"),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
                pre_tokenizers.Digits(individual_digits=False),
                pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
            ]
        )
    elif name in _WHOLE:
        backend.pre_tokenizer = _splits(*_WHOLE[name], as_gpt2=False)
    else:
        logger.warning(
            "%s: its tokenizer splits texts in a way that is not known here (tokenizer.ggml.pre: %s), and they are "
            "split as GPT-2 does; prompts may get other tokens than the model was trained on",
            *(where, name),
        )


def _splits(*expressions: str, as_gpt2: bool) -> pre_tokenizers.PreTokenizer:
    parts = [pre_tokenizers.Split(Regex(each), "isolated") for each in expressions]
    return pre_tokenizers.Sequence([*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=as_gpt2)])

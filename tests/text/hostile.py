"""Tokenizers that lose, add or hide letters: of encoders, in Python, with holes, with added entries of any flag."""

import json
from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizer, PreTrainedTokenizerBase

from .tokenizers import CHAT, CORPUS, SPECIAL, byte_level, finished, metaspace

SPACED = "<|end of turn|>"


def word_pieces() -> Tokenizer:
    """As BERT's: lower case without accents, ## within words, and a decoder that takes spaces away before a point."""
    words = Tokenizer(models.WordPiece(unk_token="<unk>"))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=[*SPECIAL, *CHAT], show_progress=False)
    words.train_from_iterator([*CORPUS, "it 's , don 't . n't ! 'm 1 2 - ?"], trainer)
    return words


def normalised(words: Tokenizer, *steps: normalizers.Normalizer) -> Tokenizer:
    words.normalizer = normalizers.Sequence([*steps])
    return words


def prefix_spaced() -> Tokenizer:
    """As RoBERTa's of old: a space is put in front of each text."""
    words = byte_level()
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    words.decoder = decoders.ByteLevel(add_prefix_space=True)
    return words


def changed(words: Tokenizer, change: Callable[[dict[str, Any]], None]) -> Tokenizer:
    """The tokenizer as its tokenizer.json is after the change."""
    state = json.loads(words.to_str())
    change(state)
    return Tokenizer.from_str(json.dumps(state))


def ignoring_merges() -> Tokenizer:
    """As Llama 3's: a whole word of the vocabulary is taken without its merges."""
    return changed(byte_level(), lambda state: state["model"].update(ignore_merges=True))


def unigram_bytes(*, strips: bool) -> Tokenizer:
    """A unigram vocabulary with an entry for each byte, as XLM's and PLaMo's; strips: as SentencePiece decodes."""

    def add_bytes(state: dict[str, Any]) -> None:
        state["model"]["vocab"] += [[f"<0x{byte:02X}>", -20.0] for byte in range(256)]
        state["model"]["byte_fallback"] = True
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        steps += [decoders.Strip(" ", 1, 0)] if strips else []
        holder = Tokenizer(models.BPE())
        holder.decoder = decoders.Sequence(steps)
        state["decoder"] = json.loads(holder.to_str())["decoder"]

    return changed(metaspace("always" if strips else "never"), add_bytes)


def flagged() -> Tokenizer:
    """Added entries that take the spaces beside them, that are whole words, that are looked for in normalised text."""
    words = byte_level()
    words.normalizer = normalizers.Lowercase()
    words.add_tokens(
        [
            AddedToken("<mask>", lstrip=True, normalized=False),
            AddedToken("<sep>", rstrip=True, normalized=False),
            AddedToken("dog", single_word=True, normalized=True),
            AddedToken("MAT", normalized=True),
        ]
    )
    words.add_special_tokens([AddedToken("<both>", lstrip=True, rstrip=True)])
    return words


def thinking() -> Tokenizer:
    """As Qwen3's: entries that are added and no special ones, which a text shows, and a special one with spaces."""
    words = byte_level(("<think>", "</think>", "<tool_call>"))
    words.add_special_tokens([AddedToken(SPACED)])
    return words


def with_holes() -> Tokenizer:
    """Ids for which there is no entry: in mid-vocabulary, and before those added."""

    def move(state: dict[str, Any]) -> None:
        vocab = state["model"]["vocab"]
        state["model"]["vocab"] = {entry: id + 3 * (id > 300) for entry, id in vocab.items()}

    return changed(byte_level(), move)


def added_twice() -> Tokenizer:
    """Added entries whose letters the vocabulary has already, and one that reads as another entry is written."""
    return byte_level(("the", "Ġcat", "cat", " cat"))


class Letters(PreTrainedTokenizer):
    """A tokenizer written in Python, each letter an entry."""

    texts = (*SPECIAL, *CHAT, *"the caHsonmélwrd☺\n{}|1.")

    def __init__(self, **settings: Any) -> None:
        self._vocab = {text: id for id, text in enumerate(self.texts)}
        super().__init__(**settings)

    @property
    def vocab_size(self) -> int:
        return len(self._vocab)

    def get_vocab(self) -> dict[str, int]:
        return {**self._vocab, **self.added_tokens_encoder}

    def _tokenize(self, text: str) -> list[str]:
        return [*text]

    def _convert_token_to_id(self, token: str) -> int:
        return self._vocab.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return next((text for text, id in self._vocab.items() if id == index), "<unk>")

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)


class Words(Letters):
    """Written in Python, with a space between any two entries."""

    def _tokenize(self, text: str) -> list[str]:
        return [*text.replace(" ", "")]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return " ".join(tokens)


class HalfWords(Letters):
    """As CTRL's: an entry within a word ends with @@."""

    texts = (*SPECIAL, *CHAT, *"thecaHsonmélwrd1.", *(f"{letter}@@" for letter in "thecaHsonl"))

    def _tokenize(self, text: str) -> list[str]:
        return [entry for word in text.split() for entry in [*(f"{letter}@@" for letter in word[:-1]), word[-1]]]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return " ".join(tokens).replace("@@ ", "").strip()


def in_python(kind: type[PreTrainedTokenizer], **settings: Any) -> PreTrainedTokenizer:
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return kind(**names, extra_special_tokens=[*CHAT], **settings)


HOSTILE: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "word pieces": lambda: finished(word_pieces(), bos=True, eos=True),
    "word pieces, cleaned up": lambda: finished(word_pieces(), clean_up_tokenization_spaces=True),
    "byte-level, cleaned up": lambda: finished(byte_level(), clean_up_tokenization_spaces=True),
    "byte-level, NFKC": lambda: finished(normalised(byte_level(), normalizers.NFKC()), bos=True),
    "metaspace, NFKC, lower case": lambda: finished(
        normalised(metaspace("always"), normalizers.NFKC(), normalizers.Lowercase()), eos=True
    ),
    "byte-level with a space in front": lambda: finished(prefix_spaced(), bos=True, eos=True),
    "byte-level, merges ignored": lambda: finished(ignoring_merges(), bos=True),
    "metaspace, first in front": lambda: finished(metaspace("first"), bos=True),
    "unigram with bytes": lambda: finished(unigram_bytes(strips=True), eos=True),
    "unigram with bytes, never in front": lambda: finished(unigram_bytes(strips=False), bos=True),
    "flags of added entries": lambda: finished(flagged()),
    "thoughts and tools": lambda: finished(thinking(), eos_token=SPACED),
    "holes": lambda: finished(with_holes(), bos=True),
    "entries twice": lambda: finished(added_twice()),
    "letters in Python": lambda: in_python(Letters),
    "words in Python": lambda: in_python(Words),
    "half words in Python": lambda: in_python(HalfWords),
    "bytes in Python": lambda: in_python(ByT5Tokenizer, extra_ids=3),
}

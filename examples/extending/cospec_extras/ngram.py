"""`ngram:FILE`: a trigram model of a text file, over the tokens of cospec's bundled models."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer

from cospec import Feed, LoadOptions, ModelNotFound, Runner, Slot, demo
from cospec.runner import Tokenizer
from cospec.runner.hf.tokenizer import HfTokenizer

ORDER = 3
# The weight of the shorter context's distribution, in tokens (Dirichlet smoothing).
STRENGTH = 0.5


def load(path: str, options: LoadOptions) -> Runner:
    """The runner of `ngram:PATH`. Raises ModelNotFound where there is no such file."""
    if not Path(path).is_file():
        raise ModelNotFound(f"no text file at {path!r}; ngram:FILE is a model of the file's n-grams")
    tokenizer = HfTokenizer(AutoTokenizer.from_pretrained(demo.model_path("demo:drafter")))
    return NgramRunner(tokenizer.encode(Path(path).read_text(encoding="utf-8")), tokenizer)


class NgramRunner:
    """A row is the distribution after the last two tokens, smoothed by that after the last one, and so on."""

    context: int | None = None
    tokenizer: Tokenizer | None
    dtype = torch.float32

    def __init__(self, text: Sequence[int], tokenizer: Tokenizer) -> None:
        self.tokenizer, self.end_ids = tokenizer, tokenizer.end_ids
        self.vocab_size = len(tokenizer.entries())
        self._tokens: dict[Slot, list[int]] = {}
        self._counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for end, token in enumerate(text):
            for start in range(max(0, end - ORDER + 1), end + 1):
                self._counts[tuple(text[start:end])][token] += 1

    def open(self) -> Slot:
        slot = Slot()
        self._tokens[slot] = []
        return slot

    def feed(self, batch: Sequence[Feed]) -> list[Tensor]:
        rows = [self._rows([*self._tokens[feed.slot], *feed.tokens], feed.rows) for feed in batch]
        for feed in batch:
            self._tokens[feed.slot] += feed.tokens
            feed.slot.length += len(feed.tokens)
        return rows

    def trim(self, slot: Slot, length: int) -> None:
        del self._tokens[slot][length:]
        slot.length = length

    def close(self, slot: Slot) -> None:
        del self._tokens[slot]

    def _rows(self, tokens: Sequence[int], count: int) -> Tensor:
        rows = torch.empty(count, self.vocab_size)
        for row, end in enumerate(range(len(tokens) - count + 1, len(tokens) + 1)):
            rows[row] = self._probs(tokens[max(0, end - ORDER + 1) : end]).log()
        return rows

    def _probs(self, context: Sequence[int]) -> Tensor:
        probs = torch.full((self.vocab_size,), 1 / self.vocab_size)
        for start in range(len(context), -1, -1):
            seen = self._counts.get(tuple(context[start:]))
            if seen is not None:
                probs *= STRENGTH
                probs[[*seen]] += torch.tensor([*seen.values()], dtype=torch.float32)
                probs /= seen.total() + STRENGTH
        return probs

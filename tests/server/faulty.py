"""Members that go wrong when they read a certain word, or take their time."""

import time

import torch

from cospec import Ensemble

RAISE, NAN, DIE = " banana", " potato", " tomato"


class Moody:
    """A bundled member that does what its words say: raise, give NaN, or bring down the thread that calls it."""

    def __init__(self, runner):
        self._runner = runner
        self.seconds = 0.0
        self.num_calls = 0
        self._meant = {word: runner.tokenizer.encode(word) for word in (RAISE, NAN, DIE)}
        self.vocab_size, self.context = runner.vocab_size, runner.context
        self.tokenizer, self.end_ids, self.dtype = runner.tokenizer, runner.end_ids, runner.dtype

    def open(self):
        return self._runner.open()

    def trim(self, slot, length):
        self._runner.trim(slot, length)

    def close(self, slot):
        self._runner.close(slot)

    def feed(self, batch):
        time.sleep(self.seconds)
        self.num_calls += 1
        if any(self._reads(feed, DIE) for feed in batch):
            raise SystemExit("the thread ends")
        if any(self._reads(feed, RAISE) for feed in batch):
            raise RuntimeError("no bananas")
        rows = self._runner.feed(batch)
        return [
            torch.full_like(row, torch.nan) if self._reads(feed, NAN) else row
            for feed, row in zip(batch, rows, strict=True)
        ]

    def _reads(self, feed, word):
        ids, tokens = self._meant[word], list(feed.tokens)
        return any(tokens[start : start + len(ids)] == ids for start in range(len(tokens)))


def moody_ensemble(**options):
    """An ensemble of two, and its first member."""
    loaded = Ensemble.load("demo:we")
    moody = Moody(loaded.runners[0])
    return Ensemble([moody, loaded.runners[1]], **options), moody

"""Toy members and a toy tokenizer for the tests, and members that do something of their own."""

import time
from collections.abc import Callable, Sequence

import torch

from cospec import toy
from cospec.runner import Feed, Runner, Slot

END = 3


def table(
    seed: int, *, vocab_size: int = 4, end_ids: Sequence[int] = (END,), sharpness: float = 1.0
) -> toy.TableRunner:
    return toy.TableRunner(vocab_size, order=2, seed=seed, end_ids=end_ids, sharpness=sharpness)


class Letters:
    """A tokenizer of single letters and a few longer entries, one of them half a character."""

    end_ids = (0,)
    _entries = ("<end>", "a", "b", "c", " ", "ab", "STOP", "\n", "\u00e9-1", "\u00e9-2", "x", "y")

    def encode(self, text: str) -> list[int]:
        return [self._entries.index(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        data = b"".join(self._bytes(index) for index in ids)
        return data.decode("utf-8", errors="replace")

    def entries(self) -> Sequence[str]:
        return self._entries

    def _bytes(self, index: int) -> bytes:
        halves = {8: b"\xc3", 9: b"\xa9", 0: b""}
        return halves.get(index, self._entries[index].encode())


def letters(text: Sequence[int], *, context: int | None = None) -> toy.FunctionRunner:
    """A model that continues any prompt of one token with `text`, then ends."""

    def fn(prefix: tuple[int, ...]) -> torch.Tensor:
        row = torch.full((12,), -8.0)
        position = len(prefix) - 1
        row[text[position] if position < len(text) else 0] = 8.0
        return row

    return toy.FunctionRunner(12, fn, end_ids=(0,), tokenizer=Letters(), context=context)


class Wrapped:
    """A runner that does something of its own before each call."""

    def __init__(self, runner: Runner, before: Callable[[], None]) -> None:
        self.runner, self.before = runner, before
        self.vocab_size, self.context = runner.vocab_size, runner.context
        self.tokenizer, self.end_ids, self.dtype = runner.tokenizer, runner.end_ids, runner.dtype

    def open(self) -> Slot:
        return self.runner.open()

    def feed(self, batch: Sequence[Feed]) -> list[object]:
        self.before()
        return self.runner.feed(batch)

    def trim(self, slot: Slot, length: int) -> None:
        self.runner.trim(slot, length)

    def close(self, slot: Slot) -> None:
        self.runner.close(slot)


def slow(runner: Runner, seconds: float) -> Wrapped:
    return Wrapped(runner, lambda: time.sleep(seconds))

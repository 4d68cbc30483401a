"""`check_runner`: a runner keeps the protocol, so that rows do not depend on how tokens are fed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..runner import Feed, Runner, Slot
from ..runner.protocol import can_copy

PROMPTS = (5, 1, 3)
"""Tokens of each prompt in the ragged batch."""


def check_runner(runner: Runner, *, tolerance: float = 1e-4, seed: int = 0) -> int:
    """Check that a runner keeps the protocol.

    Rows are the same, within `tolerance`, whether tokens are fed at once, one by one or in a batch of unequal lengths,
    and after a rollback; as many rows come as are asked for, `vocab_size` wide, in float32 or wider; `Slot.length`
    counts the tokens; closed slots leave the others alone; a copied slot, where the runner `copies`, is as if fed.

    Returns how many rows were compared. Raises AssertionError that says what is wrong.
    """
    _check_attributes(runner)
    try:
        return _check_rows(runner, tolerance, seed)
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"the runner raised {type(error).__name__}: {error}") from error


def _check_rows(runner: Runner, tolerance: float, seed: int) -> int:
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randint(runner.vocab_size, (n,), generator=generator).tolist() for n in PROMPTS]
    expected = [_one_by_one(runner, tokens) for tokens in texts]
    slots = [runner.open() for _ in texts]
    given = runner.feed([Feed(slot, tokens, len(tokens)) for slot, tokens in zip(slots, texts, strict=True)])
    assert len(given) == len(texts), f"feed gave {len(given)} tensors for {len(texts)} feeds"
    for slot, tokens, rows, wanted in zip(slots, texts, given, expected, strict=True):
        assert slot.length == len(tokens), f"Slot.length is {slot.length} after {len(tokens)} tokens"
        _check_equal(rows, wanted, tolerance, "a batch of unequal prompts")
    _check_rollback(runner, slots, texts, expected, tolerance)
    (nothing,) = runner.feed([Feed(slots[1], texts[1], 0)])
    assert nothing.shape == (0, runner.vocab_size), f"no row was asked for, and rows are {list(nothing.shape)}"
    for slot in slots:
        runner.close(slot)
    again = runner.open()
    (rows,) = runner.feed([Feed(again, texts[0], 1)])
    _check_equal(rows, expected[0][-1:], tolerance, "a slot that was opened after others were closed")
    _check_copy(runner, again, texts[0], expected[0], tolerance)
    runner.close(again)
    return sum(PROMPTS) * 2


def _check_copy(runner: Runner, source: Slot, tokens: Sequence[int], expected: Tensor, tolerance: float) -> None:
    """source: a slot that was fed these tokens."""
    if not can_copy(runner):
        return
    copied, num_read = runner.open(), len(tokens) - 1
    runner.copy(source, copied, num_read)
    assert copied.length == num_read, f"Slot.length is {copied.length} after {num_read} tokens were copied to it"
    # What the one forgets, the other keeps.
    runner.trim(source, 0)
    (rows,) = runner.feed([Feed(copied, tokens[-1:], 1)])
    _check_equal(rows, expected[-1:], tolerance, "a slot that was copied")
    runner.close(copied)


def _check_attributes(runner: Runner) -> None:
    for name in ("vocab_size", "context", "tokenizer", "end_ids", "dtype", "open", "feed", "trim", "close"):
        assert hasattr(runner, name), f"a runner has {name}; see cospec.Runner"
    assert runner.vocab_size > 0, f"vocab_size must be above 0, got {runner.vocab_size}"
    most = max(PROMPTS) + 2
    assert runner.context is None or runner.context >= most, f"the check needs a context of {most} tokens"


def _one_by_one(runner: Runner, tokens: Sequence[int]) -> Tensor:
    """[tokens, vocab]: the row behind each token, fed alone."""
    slot = runner.open()
    assert slot.length == 0, f"an open slot has length {slot.length}"
    rows = []
    for token in tokens:
        (row,) = runner.feed([Feed(slot, [token], 1)])
        assert row.shape == (1, runner.vocab_size), f"a row of one token has shape {list(row.shape)}"
        assert row.dtype in (torch.float32, torch.float64), f"rows must be float32 or wider, got {row.dtype}"
        rows.append(row.cpu().double())
    runner.close(slot)
    return torch.cat(rows)


def _check_rollback(
    runner: Runner, slots: Sequence[Slot], texts: Sequence[list[int]], expected: Sequence[Tensor], tolerance: float
) -> None:
    """A block behind each text is fed and forgotten again, of another length in each slot."""
    runner.feed([Feed(slot, tokens[:1] * 2, 1) for slot, tokens in zip(slots, texts, strict=True)])
    for slot, tokens in zip(slots, texts, strict=True):
        kept = len(tokens) - 1
        runner.trim(slot, kept)
        assert slot.length == kept, f"Slot.length is {slot.length} after a trim to {kept} tokens"
    feeds = [Feed(slot, tokens[-1:], 1) for slot, tokens in zip(slots, texts, strict=True)]
    for rows, wanted in zip(runner.feed(feeds), expected, strict=True):
        _check_equal(rows, wanted[-1:], tolerance, "what was fed again after a rollback")


def _check_equal(rows: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    assert rows.shape == wanted.shape, f"{what}: rows have shape {list(rows.shape)}, want {list(wanted.shape)}"
    assert not rows.isnan().any(), f"{what}: rows have NaN"
    off = float((torch.log_softmax(rows.cpu().double(), -1) - torch.log_softmax(wanted, -1)).abs().nan_to_num(0).max())
    assert off <= tolerance, f"{what}: log-probabilities are off those of tokens fed one by one by {off:.3g}"

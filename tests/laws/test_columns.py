"""The laws where rows have columns for the kept tokens alone, as in large vocabularies, and faults in that."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from cospec import SamplingParams
from cospec.core import rows, select, settle, transforms
from cospec.core.select import HotRow, Kept
from cospec.core.tokens import Draft

from .cases import BLENDS
from .test_faults import BLOCK, CASCADE, FIXED, NOTICEABLE, ROUNDING

HOT = SamplingParams(max_tokens=3, ignore_eos=True, temperature=0.7, top_p=0.8)
PENALISED = SamplingParams(max_tokens=3, ignore_eos=True, top_k=2, repetition_penalty=1.5, frequency_penalty=0.3)
CASES = {
    "token": FIXED.but(params=HOT),
    "block": BLOCK.but(params=HOT, vocab_size=4),
    "coupled": FIXED.but(params=HOT, verification="coupled"),
    "cascade": CASCADE.but(params=HOT),
    "penalties": BLOCK.but(params=PENALISED, blend=BLENDS["mixture"]),
    "min-p": FIXED.but(params=SamplingParams(max_tokens=3, ignore_eos=True, min_p=0.4)),
    "whole rows": FIXED.but(params=SamplingParams(max_tokens=3, ignore_eos=True)),
}


@pytest.fixture(autouse=True)
def small_vocabularies_are_large(monkeypatch):
    for least in ("LEAST_SELECTED", "LEAST_SUMMED", "LEAST_CUT"):
        monkeypatch.setattr(select, least, 1)


@pytest.mark.parametrize("name", CASES)
def test_columns_have_the_law_of_naive_decoding(name):
    assert CASES[name].distance() < ROUNDING


def one_token_too_few(row: HotRow, top_p: float, among: Kept | None = None) -> Kept:
    """An off-by-one at the threshold: the token that reaches top_p goes."""
    ids, values = select.kept_by_top_p(row, top_p, among)
    is_above = values > values.min() if len(ids) > 1 else slice(None)
    return ids[is_above], values[is_above]


def the_next_token_too(row: HotRow, top_p: float, among: Kept | None = None) -> Kept:
    count = len(select.kept_by_top_p(row, top_p, among)[0])
    ids = np.sort(np.argsort(-row.logits)[: count + 1])
    return ids, row.values(ids)


def by_column(probs: Tensor, ids: Tensor | None, wanted: Tensor) -> Tensor:
    """A draft's columns are taken to be the target's."""
    return (
        torch.nn.functional.pad(probs, (0, len(wanted)))[: len(wanted)]
        if len(wanted) > 1
        else rows.picked(probs, ids, wanted)
    )


def token_for_column(draft: Draft) -> float:
    """A draft's token is taken for its column."""
    assert draft.probs is not None
    return float(draft.probs[min(draft.token, len(draft.probs) - 1)])


FAULTS: dict[str, tuple[object, str, Callable[..., object], str]] = {
    "one too few": (transforms, "kept_by_top_p", one_token_too_few, "token"),
    "one too many": (transforms, "kept_by_top_p", the_next_token_too, "token"),
    "a token taken for a column": (settle, "_of_token", token_for_column, "block"),
    "columns mistaken": (settle, "picked", by_column, "token"),
    "columns mistaken, in blocks": (settle, "picked", by_column, "block"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_law_notices(name, monkeypatch):
    module, function, fault, case = FAULTS[name]
    monkeypatch.setattr(module, function, fault)
    assert CASES[case].distance() > NOTICEABLE


def test_the_law_notices_columns_taken_for_tokens(monkeypatch):
    monkeypatch.setattr(rows.LogProbs, "tokens", lambda self, columns: columns)
    assert CASES["coupled"].distance() > NOTICEABLE


def test_the_law_notices_that_all_positions_have_the_columns_of_the_first(monkeypatch):
    at = rows.LogProbs.at

    def faulty(self: rows.LogProbs, tokens: list[int]) -> list[float]:
        ids = None if self.ids is None else self.ids[:1].repeat(len(self), 1)
        return at(rows.LogProbs(self.values, ids), tokens)

    monkeypatch.setattr(rows.LogProbs, "at", faulty)
    assert CASES["block"].distance() > NOTICEABLE

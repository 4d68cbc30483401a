"""The real draws, of which the enumerated laws know nothing: they are tested against the exact laws by sampling."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cospec import SamplingParams, toy
from cospec.core import select, settle
from cospec.core.draws import Draws, Purpose, draw
from cospec.core.summed import KeptRow, Residual, SummedRuns

from ..properties import longer
from . import naive
from .cases import BLENDS, Case
from .chi_square import is_from, p_value

NUM_DRAWS = 200_000
# Of these the other temperature is told with a p-value below 1e-20.
NUM_TEXTS = longer(1_200, 3_000)
P = [0.02, 0.4, 0.08, 0.3, 0.2]
LAW = dict(enumerate(P))
NEARLY = dict(enumerate([0.02, 0.39, 0.08, 0.31, 0.2]))

SHORT = SamplingParams(max_tokens=4)


def by_noise(draws: Draws, num_positions: int) -> list[int]:
    log_p = torch.tensor(P, dtype=torch.float32).log().expand(num_positions, -1)
    return (log_p + draws.gumbel(0, num_positions, log_p)).argmax(-1).tolist()


def by_uniforms(purpose: Purpose) -> list[int]:
    draws = Draws(3)
    uniforms = [draws.uniform(i // 4, purpose, i % 4) for i in range(NUM_DRAWS)]
    return draw(torch.tensor(P).expand(NUM_DRAWS, -1), uniforms)


def test_noise_at_one_position_after_the_other_draws_from_r():
    tokens = by_noise(Draws(1), NUM_DRAWS)
    assert is_from(LAW, tokens)
    assert not is_from(NEARLY, tokens)


def test_noise_of_one_seed_after_the_other_draws_from_r():
    tokens = [token for seed in range(NUM_DRAWS // 10) for token in by_noise(Draws(seed), 10)]
    assert is_from(LAW, tokens)


@pytest.mark.larger
def test_noise_of_one_sample_after_the_other_draws_from_r():
    tokens = [by_noise(Draws(5, index), 1)[0] for index in range(longer(10_000, 20_000))]
    assert is_from(LAW, tokens)


@pytest.mark.parametrize("purpose", [Purpose.PROPOSE, Purpose.REPLACE])
def test_uniforms_draw_from_what_they_are_given(purpose):
    tokens = by_uniforms(purpose)
    assert is_from(LAW, tokens)
    assert not is_from(NEARLY, tokens)


def test_pairs_of_neighbouring_tokens_are_independent():
    tokens = by_noise(Draws(7), NUM_DRAWS)
    pairs = {(a, b): P[a] * P[b] for a in LAW for b in LAW}
    assert is_from(pairs, list(zip(tokens[::2], tokens[1::2], strict=True)))


@pytest.mark.larger
@pytest.mark.parametrize(
    "case",
    [
        Case(blend=BLENDS["mixture"], schedule="plain", verification="coupled", params=SHORT),
        Case(blend=BLENDS["mixture"], schedule="mixture", params=SHORT),
        Case(blend=BLENDS["arithmetic of 3"], schedule="alternate", gamma=1, params=SHORT),
        Case(
            blend=BLENDS["contrastive"],
            schedule="fixed",
            gamma=3,
            proposer="drafter",
            verification="block",
            params=SHORT,
            vocab_size=4,
        ),
    ],
    ids=lambda case: f"{case.schedule} {case.verification}",
)
def test_texts_have_the_law_of_naive_decoding(case):
    texts = case.texts(range(NUM_TEXTS))
    assert is_from(case.naive_law(), texts)
    other = case.but(params=SamplingParams(max_tokens=4, temperature=1.6)).naive_law()
    assert not is_from(other, texts)


def test_a_law_is_told_from_one_that_forbids_what_was_drawn():
    assert p_value({"a": 5, "b": 5}, {"a": 1.0}) == 0.0


def test_cells_of_few_expected_draws_are_pooled():
    # 200 cells of half a draw each. Seven draws in one of them would alarm alone; in its pool they are as many as due.
    law = {**dict.fromkeys(range(200), 0.0005), "rest": 0.9}
    counts = {**dict.fromkeys(range(0, 200, 2), 1), "rest": 900}
    assert p_value(counts, law) > 0.5
    gathered = {**dict.fromkeys(range(10), 0), **dict.fromkeys(range(10, 200, 2), 1), 3: 5, "rest": 900}
    assert p_value(gathered, law) > 0.5


def test_the_survival_function_is_that_of_chi_square():
    # One degree of freedom: 3.841 is the 5 percent point.
    n, law = 10_000, {"a": 0.5, "b": 0.5}
    excess = round((3.841 * n) ** 0.5 / 2)
    assert p_value({"a": n // 2 + excess, "b": n // 2 - excess}, law) == pytest.approx(0.05, rel=0.01)
    assert naive.distance({("a",): 1.0}, {("b",): 1.0}) == 1.0


class Narrow(toy.FunctionRunner):
    """Rows in float32, which compiled loops sum."""

    dtype = torch.float32

    def feed(self, batch):
        return [rows.float() for rows in super().feed(batch)]


# A row of a token that no other has.
APART = KeptRow(np.array([2**40]), np.zeros(1, dtype=np.float32))


def by_target(runs, reach):
    """Replacements are drawn as if a draft left all of the target."""
    nothing = [APART if isinstance(row, KeptRow) else replace(row, total=math.inf) for row in runs.drafts]
    return {at: Residual.of(a, runs.targets[at], nothing[at]) for at, a in reach.items()}


SAMPLING = {
    "whole rows": {"temperature": 0.7},
    "top-p": {"temperature": 0.7, "top_p": 0.9},
    "top-k and penalties": {"top_k": 3, "repetition_penalty": 1.4, "frequency_penalty": 0.3},
}


@pytest.mark.skipif(select.kernels() is None, reason="numba is not installed")
@pytest.mark.parametrize(
    ("sampling", "blend", "verification"),
    [
        *itertools.product(["whole rows"], ["mixture", "contrastive"], ["token", "block"]),
        ("top-p", "product", "block"),
        ("top-k and penalties", "mixture", "token"),
    ],
)
def test_texts_that_sums_of_rows_decide_have_the_law_of_naive_decoding(sampling, blend, verification, monkeypatch):
    for least in ("LEAST_SELECTED", "LEAST_SUMMED", "LEAST_CUT"):
        monkeypatch.setattr(select, least, 1)
    case = Case(
        blend=BLENDS[blend],
        schedule="fixed",
        gamma=2,
        proposer="drafter",
        verification=verification,
        params=SamplingParams(max_tokens=3, **SAMPLING[sampling]),
        vocab_size=4,
        runner=Narrow,
    )
    by_sums, decided = settle._by_sums, []
    monkeypatch.setattr(settle, "_by_sums", lambda block: decided.append(by_sums(block)) or decided[-1])
    texts = case.texts(range(NUM_TEXTS))
    assert sum(verdict is not None for verdict in decided) > 0.98 * len(decided) > NUM_TEXTS / 2
    assert is_from(case.naive_law(), texts)
    monkeypatch.setattr(SummedRuns, "residuals", by_target)
    assert not is_from(case.naive_law(), case.texts(range(NUM_TEXTS)))

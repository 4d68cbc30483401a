"""Verification as functions of tensors: the laws of what they accept and replace."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from cospec import UnknownName
from cospec.core.draws import probabilities
from cospec.core.verify import (
    VERIFICATIONS,
    Runs,
    Verdict,
    check_verification,
    verify_block,
    verify_coupled,
    verify_token,
)
from cospec.testing.enumeration import Path, Uniform, branching, outcomes

Verify = Callable[..., list[Verdict]]
BY_RATIO = [verify_token, verify_block]
# One column for accepting and one for replacing, as the purposes of `Draws`.
ACCEPT, REPLACE = 0, 1


def rows(seed: int, length: int, vocab_size: int = 3, sharpness: float = 1.5) -> dict[tuple[int, ...], Tensor]:
    """A distribution after each text of up to `length` tokens."""
    generator = torch.Generator().manual_seed(seed)
    return {
        text: torch.softmax(torch.randn(vocab_size, generator=generator, dtype=torch.float64) * sharpness, 0)
        for size in range(length + 1)
        for text in itertools.product(range(vocab_size), repeat=size)
    }


def run_of(tokens: tuple[int, ...], p: dict[tuple[int, ...], Tensor], q: dict[tuple[int, ...], Tensor]) -> Runs:
    before = [tokens[:i] for i in range(len(tokens))]
    return one(tokens, torch.stack([p[text] for text in before]), torch.stack([q[text] for text in before]))


def one(tokens: Sequence[int], target: Tensor, draft: Tensor) -> Runs:
    """A run alone."""
    return several([len(tokens)], torch.tensor(tokens), target, draft)


def several(lengths: Sequence[int], tokens: Tensor, target: Tensor, draft: Tensor) -> Runs:
    """Runs of rows of the whole vocabulary, [total, vocab]."""
    log_target, draft = target.log(), probabilities(draft.log())
    target = probabilities(log_target)
    p, q = (rows.gather(1, tokens[:, None])[:, 0].tolist() for rows in (target, draft))
    rows = [partial(draft.__getitem__, i) for i in range(len(draft))]
    return Runs(lengths=lengths, p=p, q=q, log_target=log_target, draft=rows)


def verdicts(verify: Verify, run: Runs) -> list[tuple[float, Verdict]]:
    """Each verdict that may come of the run, with its probability."""

    def decide(path: Path) -> Verdict:
        (verdict,) = verify(
            run, lambda _, i: Uniform(path, (i, ACCEPT, 0)), lambda _, i: Uniform(path, (i, REPLACE, 0))
        )
        return verdict

    with branching():
        return [(probability, verdict) for probability, verdict, _ in outcomes(decide)]


def drafted(q: dict[tuple[int, ...], Tensor], length: int) -> dict[tuple[int, ...], float]:
    """The law of a text of `length` tokens."""
    if length == 0:
        return {(): 1.0}
    vocab = range(len(q[()]))
    law = {
        text: math.prod(float(q[text[:i]][x]) for i, x in enumerate(text))
        for text in itertools.product(vocab, repeat=length)
    }
    return {text: reached for text, reached in law.items() if reached > 0}


def expected_accepted(verify: Verify, p: dict, q: dict, length: int) -> float:
    return sum(
        reached * probability * verdict.accepted
        for tokens, reached in drafted(q, length).items()
        for probability, verdict in verdicts(verify, run_of(tokens, p, q))
    )


def emitted(verify: Verify, p: dict, q: dict, length: int) -> dict[tuple[int, ...], float]:
    """The law of `length` + 1 tokens: what stands of a draft, its replacement, and then tokens of the target."""
    law: dict[tuple[int, ...], float] = defaultdict(float)
    for tokens, reached in drafted(q, length).items():
        for probability, verdict in verdicts(verify, run_of(tokens, p, q)):
            text = tokens[: verdict.accepted] + (() if verdict.token is None else (verdict.token,))
            after = {longer[len(text) :]: row for longer, row in p.items() if longer[: len(text)] == text}
            for following, share in drafted(after, length + 1 - len(text)).items():
                law[text + following] += reached * probability * share
    return law


@pytest.mark.parametrize("sharpness", [0.5, 1.5, 6.0])
@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("verify", BY_RATIO)
def test_what_is_emitted_has_the_law_of_the_target(verify, length, sharpness):
    p, q = rows(1, length, sharpness=sharpness), rows(2, length, sharpness=sharpness)
    naive = drafted(p, length + 1)
    law = emitted(verify, p, q, length)
    assert law.keys() <= naive.keys()
    assert all(law[text] == pytest.approx(naive[text], abs=1e-12) for text in naive)


def test_four_drafts_in_a_block_have_the_law_of_the_target():
    p, q = rows(3, 4, vocab_size=2), rows(4, 4, vocab_size=2)
    naive = drafted(p, 5)
    law = emitted(verify_block, p, q, 4)
    assert all(law[text] == pytest.approx(naive[text], abs=1e-12) for text in naive)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_block_accepts_no_fewer_than_token_by_token(length, seed):
    vocab_size = 3 if length < 4 else 2
    p, q = rows(seed, length, vocab_size), rows(seed + 100, length, vocab_size)
    by_block, by_token = (expected_accepted(verify, p, q, length) for verify in (verify_block, verify_token))
    assert by_block >= by_token - 1e-12
    if length == 1:
        assert by_block == pytest.approx(by_token)


def test_a_block_accepts_more_where_a_run_makes_up_for_an_unlikely_start():
    p, q = rows(11, 3), rows(111, 3)
    assert expected_accepted(verify_block, p, q, 3) > expected_accepted(verify_token, p, q, 3) + 0.01


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_block_accepts_by_the_shares_h(length):
    """The chance that exactly i tokens stand is h_i times that of failing at all lengths behind it."""
    p, q = rows(5, length), rows(6, length)
    for tokens in list(drafted(q, length))[::5]:
        reach, shares = [1.0], []
        for i, token in enumerate(tokens):
            reach.append(min(1.0, reach[-1] * float(p[tokens[:i]][token]) / float(q[tokens[:i]][token])))
        for i in range(1, length):
            mass = sum(
                max(reach[i] * float(a) - float(b), 0) for a, b in zip(p[tokens[:i]], q[tokens[:i]], strict=True)
            )
            shares.append(mass / (mass + 1 - reach[i]))
        shares.append(reach[length])
        chances = defaultdict(float)
        for probability, verdict in verdicts(verify_block, run_of(tokens, p, q)):
            chances[verdict.accepted] += probability
        rest = 1.0
        for i in range(length, 0, -1):
            assert chances[i] == pytest.approx(rest * shares[i - 1])
            rest *= 1 - shares[i - 1]
        assert chances[0] == pytest.approx(rest)


@pytest.mark.parametrize("verify", BY_RATIO)
def test_a_draft_from_the_target_itself_is_always_accepted(verify):
    p = rows(7, 3)
    for tokens in drafted(p, 3):
        found = verify(run_of(tokens, p, p), accept=lambda _, i: 1 - 2**-40, replace=lambda _, i: 0.5)
        assert found == [Verdict(3, None)]


@pytest.mark.parametrize("verify", BY_RATIO)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_that_rejects_a_draft_from_the_target_replaces_it_by_a_token_of_the_target(verify, dtype):
    p = torch.tensor([[0.0, 0.25, 0.75]], dtype=dtype)
    q = torch.tensor([[0.0, 0.25, 0.75]], dtype=dtype)
    assert verify(one([2], p, q), accept=lambda _, i: 1.0, replace=lambda _, i: 0.1) == [Verdict(0, 1)]


@pytest.mark.parametrize("verify", BY_RATIO)
def test_a_target_of_one_token_accepts_it_alone(verify):
    target = torch.tensor([[0.0, 1.0, 0.0]])
    draft = torch.tensor([[0.6, 0.3, 0.1]])
    for token, expected in ((1, Verdict(1, None)), (0, Verdict(0, 1)), (2, Verdict(0, 1))):
        for uniform in (1e-12, 0.5, 1 - 1e-12):
            same = lambda _, i, u=uniform: u  # noqa: E731
            assert verify(one([token], target, draft), same, same) == [expected]


@pytest.mark.parametrize("verify", BY_RATIO)
def test_a_one_hot_draft_is_accepted_with_the_targets_probability_and_replaced_by_the_others(verify):
    p = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    for token in range(3):
        draft = torch.zeros(1, 3, dtype=torch.float64)
        draft[0, token] = 1.0
        law = defaultdict(float)
        for probability, verdict in verdicts(verify, one([token], p[None], draft)):
            law[token if verdict.token is None else verdict.token] += probability
        assert [law[x] for x in range(3)] == pytest.approx(p.tolist())


@pytest.mark.parametrize("verify", BY_RATIO)
def test_a_lookups_draft_given_a_members_row_would_bias_the_text(verify):
    p, q = rows(8, 1)[()], rows(9, 1)[()]
    looked_up = 0
    law = defaultdict(float)
    for probability, verdict in verdicts(verify, one([looked_up], p[None], q[None])):
        law[looked_up if verdict.token is None else verdict.token] += probability
    assert sum(abs(law[x] - float(p[x])) for x in range(3)) / 2 > 0.05


def test_blocks_of_lookups_have_the_law_of_the_target():
    """A lookup's draft is the one that its one-hot rows draw, so that a block may hold some."""
    p = rows(10, 2)
    q = {text: torch.eye(3, dtype=torch.float64)[len(text) % 3] for text in p}
    naive = drafted(p, 3)
    law = emitted(verify_block, p, q, 2)
    assert all(law[text] == pytest.approx(naive[text], abs=1e-12) for text in naive)


@pytest.mark.parametrize("verify", BY_RATIO)
def test_verdicts_do_not_look_at_rows_behind_the_run(verify):
    p, q = rows(12, 3), rows(13, 3)
    for tokens in drafted(q, 2):
        uniforms = {"accept": lambda _, i: (0.35, 0.62)[i], "replace": lambda _, i: 0.4}
        short = verify(run_of(tokens, p, q), **uniforms)
        changed = dict(p)
        changed[tokens] = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
        assert verify(run_of(tokens, changed, q), **uniforms) == short


@pytest.mark.parametrize("verify", BY_RATIO)
def test_runs_side_by_side_are_each_decided_as_alone(verify):
    generator = torch.Generator().manual_seed(14)
    lengths = [3, 1, 4, 2, 1, 5] * 8
    total = sum(lengths)
    p, q = torch.softmax(2 * torch.randn(2, total, 7, generator=generator, dtype=torch.float64), -1)
    tokens = torch.multinomial(q, 1, generator=generator)[:, 0]
    accept, replace = torch.rand(2, len(lengths), 5, generator=generator).tolist()
    runs = several(lengths, tokens, p, q)
    together = verify(runs, lambda run, i: accept[run][i], lambda run, i: replace[run][i])
    for run, (start, length) in enumerate(runs.spans):
        own = slice(start, start + length)
        alone = one(tokens[own].tolist(), p[own], q[own])
        assert verify(alone, lambda _, i, u=accept[run]: u[i], lambda _, i, u=replace[run]: u[i]) == [together[run]]
    assert {verdict.accepted for verdict in together} >= {0, 1, 2}
    assert any(verdict.token is None for verdict in together)


def test_coupled_accepts_what_the_noise_settles_and_stops_at_the_first_difference():
    assert verify_coupled([1, 2, 0], [1, 2, 0]) == Verdict(3, None)
    assert verify_coupled([1, 2, 0], [1, 0, 0]) == Verdict(1, 0)
    assert verify_coupled([1, 2, 0], [2, 2, 0]) == Verdict(0, 2)
    assert verify_coupled([], []) == Verdict(0, None)


def test_coupled_wants_a_settled_token_for_each_draft():
    with pytest.raises(ValueError, match="zip"):
        verify_coupled([1, 2], [1])


def test_an_unknown_verification_is_answered_with_the_known_ones():
    assert [check_verification(name) for name in VERIFICATIONS] == list(VERIFICATIONS)
    with pytest.raises(
        UnknownName, match=r"unknown verification 'blok'; did you mean 'block'\? \(block, coupled, token\)"
    ):
        check_verification("blok")

"""Combinations against their formulas in plain Python, and what they refuse."""

import math

import pytest
import torch

from cospec import (
    Arithmetic,
    Combination,
    Contrastive,
    Custom,
    Ensemble,
    Guided,
    InvalidCombination,
    InvalidSchedule,
    Mixture,
    Plan,
    Product,
    SamplingParams,
    UnknownName,
)
from cospec.core.combine import combination_names, make_combination

from .laws import naive
from .laws.naive import Target
from .toys import table

NAN, INF = math.nan, math.inf

FORMULAS: list[tuple[Combination, Target, int]] = [
    (Mixture([0.3, 0.7]), naive.mixture(0.3, 0.7), 2),
    (Mixture([0.2, 0.5, 0.3]), naive.mixture(0.2, 0.5, 0.3), 3),
    (Mixture([0.1, 0.1, 0.2, 0.25, 0.35]), naive.mixture(0.1, 0.1, 0.2, 0.25, 0.35), 5),
    (Product([0.4, 1.1]), naive.product(0.4, 1.1), 2),
    (Product([0.4, 0.1, 0.9]), naive.product(0.4, 0.1, 0.9), 3),
    (Product([0.2] * 5), naive.product(*[0.2] * 5), 5),
    (Arithmetic([1.5, -0.5]), naive.arithmetic(1.5, -0.5), 2),
    (Arithmetic([1.0, 1.0, -1.0]), naive.arithmetic(1.0, 1.0, -1.0), 3),
    (Arithmetic([0.5, -0.2, 0.0, 1.0, -0.9]), naive.arithmetic(0.5, -0.2, 0.0, 1.0, -0.9), 5),
    (Contrastive(), naive.contrastive(0.1), 2),
    (Contrastive(1.0), naive.contrastive(1.0), 2),
    (Contrastive(0.0), naive.contrastive(0.0), 2),
    (Contrastive(0.5, plausibility=0.1), naive.contrastive(0.5, 0.1), 2),
    (Contrastive(0.5, plausibility=1.0), naive.contrastive(0.5, 1.0), 2),
    (Guided(), naive.guided(1.5), 2),
    (Guided(0.0), naive.guided(0.0), 2),
    (Guided(1.0), naive.guided(1.0), 2),
    (Guided(-0.7), naive.guided(-0.7), 2),
    (Custom(lambda log_p: log_p.amax(0)), naive.largest, 3),
    (Custom(lambda log_p: log_p.amax(0) + 17.0), naive.largest, 5),
]
# A function has its address in its name, which differs from process to process.
NAMES = [f"{combination.name} {row}" for row, (combination, *_) in enumerate(FORMULAS)]


def logits(num_members: int, *, positions: int = 4, vocab_size: int = 11, scale: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_members)
    return torch.randn(num_members, positions, vocab_size, generator=generator, dtype=torch.float64) * scale


def probs(combination: Combination, *members: list[float]) -> list[float]:
    """r at one position."""
    return combination.log_probs(torch.tensor(members, dtype=torch.float64)[:, None]).exp()[0].tolist()


@pytest.mark.parametrize(("combination", "target", "num_members"), FORMULAS, ids=NAMES)
def test_r_is_what_the_formula_says(combination, target, num_members):
    rows = logits(num_members)
    combination.check(num_members)
    r = combination.log_probs(rows).exp()
    expected = [target(rows[:, position].tolist()) for position in range(rows.shape[1])]
    torch.testing.assert_close(r, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(("combination", "target", "num_members"), FORMULAS, ids=NAMES)
def test_a_row_does_not_depend_on_its_neighbours_nor_change(combination, target, num_members):
    rows = logits(num_members)
    before = rows.clone()
    together = combination.log_probs(rows)
    for position in range(rows.shape[1]):
        alone = combination.log_probs(rows[:, position : position + 1])
        torch.testing.assert_close(together[position : position + 1], alone, rtol=0, atol=1e-14)
    assert torch.equal(rows, before)


@pytest.mark.parametrize(("combination", "target", "num_members"), FORMULAS, ids=NAMES)
@pytest.mark.parametrize("offset", [-3e4, 1e3])
def test_a_members_logits_may_be_off_by_a_constant(combination, target, num_members, offset):
    rows = logits(num_members)
    shifted = rows.clone()
    shifted[0] += offset
    torch.testing.assert_close(combination.log_probs(shifted), combination.log_probs(rows), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("combination", "target", "num_members"), FORMULAS, ids=NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_give_a_distribution(combination, target, num_members, dtype):
    rows = logits(num_members, scale=1000.0).to(dtype)
    log_r = combination.log_probs(rows)
    assert log_r.dtype == dtype
    assert not torch.isnan(log_r).any()
    torch.testing.assert_close(log_r.exp().sum(-1), torch.ones(4, dtype=dtype))


def test_a_mixture_forbids_what_all_members_forbid():
    r = probs(Mixture([0.5, 0.5]), [0.0, -INF, -INF], [-INF, 0.0, -INF])
    assert r == pytest.approx([0.5, 0.5, 0.0])


@pytest.mark.parametrize("weights", [[0.5, 0.5], [1.0, 1e-4], [1e-4, 3.0]])
def test_a_product_forbids_what_any_member_forbids_whatever_its_weight(weights):
    r = probs(Product(weights), [0.0, -INF, 1.0, 1.0], [0.0, 1.0, -INF, 1.0])
    assert r[1] == r[2] == 0.0
    assert r[0] + r[3] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "combination",
    [
        Contrastive(0.1),
        Contrastive(1.0),
        Contrastive(3.0),
        Contrastive(1.0, plausibility=0.1),
        Guided(2.0),
        Guided(1.0),
        Arithmetic([1.0, -1.0]),
        Arithmetic([0.2, -0.9]),
        Arithmetic([1.0, 0.0]),
    ],
    ids=str,
)
def test_what_a_member_of_positive_weight_forbids_is_forbidden_whatever_is_subtracted(combination):
    for forbidden_by_the_other in (0.0, -5.0, -INF):
        r = probs(combination, [0.0, -INF, 0.5], [0.3, forbidden_by_the_other, 0.0])
        assert r[1] == 0.0
        assert r[0] + r[2] == pytest.approx(1.0)


def test_what_the_amateur_alone_forbids_has_all_the_mass():
    # The limit of the formula: its log-probability is subtracted.
    assert probs(Contrastive(0.5), [0.0, 0.0], [0.0, -INF]) == pytest.approx([0.0, 1.0])
    assert probs(Contrastive(0.5, plausibility=0.5), [3.0, 0.0], [0.0, -INF]) == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize(
    ("combination", "num_members"),
    [(Mixture([0.5, 0.5]), 2), (Product([1, 1]), 2), (Arithmetic([1, -1]), 2), (Contrastive(), 2), (Guided(), 2)],
    ids=str,
)
@pytest.mark.parametrize("bad", [[NAN, 0.0], [INF, 0.0], [-INF, -INF]], ids=str)
def test_a_row_that_is_no_distribution_does_not_pass_for_one(combination, num_members, bad):
    # The engine ends the text with an error where the highest entry is not finite.
    for member in range(num_members):
        members = [[0.0, 1.0]] * num_members
        members[member] = bad
        log_r = combination.log_probs(torch.tensor(members)[:, None])
        assert not torch.isfinite(log_r.amax(-1)).any()


def test_members_that_leave_each_other_no_token_give_no_distribution():
    log_r = Product([0.5, 0.5]).log_probs(torch.tensor([[0.0, -INF], [-INF, 0.0]])[:, None])
    assert not torch.isfinite(log_r.amax(-1)).any()


def test_plausibility_keeps_tokens_at_the_threshold():
    expert = [math.log(0.5), math.log(0.25), math.log(0.2), math.log(0.05)]
    r = probs(Contrastive(0.0, plausibility=0.5), expert, [0.0] * 4)
    assert r == pytest.approx([2 / 3, 1 / 3, 0, 0])


def test_members_count_by_their_place():
    one, other = [0.0, 1.0, 3.0], [2.0, 0.0, 0.5]
    for combination in (Mixture([0.2, 0.8]), Product([0.2, 0.8]), Arithmetic([1, -0.5]), Contrastive(), Guided()):
        assert probs(combination, one, other) != pytest.approx(probs(combination, other, one))


def test_weights_may_miss_one_by_rounding_and_r_is_normalised_all_the_same():
    r = probs(Mixture([0.3333333, 0.3333333, 0.3333333]), [0.0, 1.0], [2.0, 0.0], [1.0, 1.0])
    assert sum(r) == pytest.approx(1.0, abs=1e-12)


REFUSED = [
    (
        lambda: Mixture([0.5, 0.6]),
        r"^weights \[0\.5, 0\.6\] sum to 1\.1; a mixture's must sum to 1: \[0\.4545, 0\.5455\]$",
    ),
    (lambda: Mixture([1.5, -0.5]), "positive weights"),
    (lambda: Mixture([1.0, 0.0]), "positive weights.* leave a member of weight 0 out"),
    (lambda: Mixture([NAN, 1.0]), "finite weights"),
    (lambda: Mixture([INF, 1.0]), "finite weights"),
    (lambda: Mixture([]), "finite weights, one a member"),
    (lambda: Mixture("ab"), "list of numbers as weights"),
    (lambda: Mixture(None), "list of numbers as weights"),
    (lambda: Mixture(0.5), "list of numbers as weights"),
    (lambda: Product([0.5, 0.0]), "positive weights.* Arithmetic takes any sign"),
    (lambda: Product([0.5, -1.0]), "positive weights"),
    (lambda: Product([NAN]), "finite weights"),
    (lambda: Arithmetic([1.0, INF]), "finite weights"),
    (lambda: Arithmetic([]), "finite weights"),
    (lambda: Contrastive(-0.1), "finite mu >= 0"),
    (lambda: Contrastive(NAN), "finite mu >= 0"),
    (lambda: Contrastive(INF), "finite mu >= 0"),
    (lambda: Contrastive("a"), "finite mu >= 0"),
    (lambda: Contrastive(plausibility=0.0), "plausibility is above 0 and at most 1"),
    (lambda: Contrastive(plausibility=1.1), "plausibility is above 0 and at most 1"),
    (lambda: Contrastive(plausibility=NAN), "plausibility is above 0 and at most 1"),
    (lambda: Contrastive(plausibility="a"), "plausibility is above 0 and at most 1"),
    (lambda: Guided(NAN), "finite scale"),
    (lambda: Guided(-INF), "finite scale"),
    (lambda: Guided(None), "finite scale"),
    (lambda: Mixture([0.5, 0.5]).check(3), r"2 weights \[0\.5, 0\.5\] for 3 members"),
    (lambda: Product([0.5, 0.5]).check(1), "2 weights .* for 1 members"),
    (lambda: Arithmetic([1, 2, 3]).check(2), "3 weights .* for 2 members"),
    (lambda: Contrastive().check(3), "two members, expert then amateur, got 3"),
    (lambda: Guided().check(1), "two members, conditional then unconditional, got 1"),
    (lambda: Custom("max").check(2), "needs a function"),
    (lambda: Custom(lambda log_p: log_p).log_probs(torch.zeros(2, 1, 3)), r"tensor of shape \(3,\)"),
    (lambda: Custom(lambda log_p: 1.0).log_probs(torch.zeros(2, 1, 3)), r"tensor of shape \(3,\)"),
    (lambda: Custom(lambda log_p: log_p[7]).log_probs(torch.zeros(2, 1, 3)), "function raised IndexError"),
    (lambda: make_combination("mixture", 2, weights="ab"), "list of numbers"),
    (lambda: make_combination("contrastive", 2, mu="a"), "finite mu"),
    (lambda: make_combination("contrastive", 2, mu=None), "finite mu"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_makes_no_distribution_is_refused(make, message):
    with pytest.raises(InvalidCombination, match=message):
        make()


def test_unknown_names_and_options_are_answered_with_the_known_ones():
    with pytest.raises(UnknownName, match=r"unknown combination 'mixtur'; did you mean 'mixture'\? \(arithmetic, "):
        make_combination("mixtur", 2)
    with pytest.raises(UnknownName, match=r"unknown option of contrastive 'weights'; .*\(mu, plausibility\)"):
        make_combination("contrastive", 2, weights=[1, 2])
    with pytest.raises(UnknownName, match=r"unknown option of guided 'scal'; did you mean 'scale'\?"):
        make_combination("guided", 2, scal=1)


@pytest.mark.parametrize("kind", combination_names())
def test_every_combination_is_had_by_name_with_its_defaults(kind):
    combination = make_combination(kind, 2, **({"fn": "torch:sum"} if kind == "custom" else {}))
    combination.check(2)
    assert combination.name == kind
    assert isinstance(combination, Combination)


def test_weights_are_equal_unless_given():
    assert make_combination("mixture", 4) == Mixture([0.25] * 4)
    assert make_combination("product", 2, weights=[1, 2]) == Product([1.0, 2.0])
    assert make_combination("contrastive", 2, mu=0.3, plausibility=0.1) == Contrastive(0.3, 0.1)


class LeastProbable(Mixture):
    """r falls as the mixture rises, so that no leading token of one member is certain to be r's."""

    def log_probs(self, logits):
        return torch.log_softmax(-super().log_probs(logits), dim=-1)


@pytest.mark.parametrize("schedule", ["alternate", "fixed"])
def test_a_subclass_has_no_shortcut_of_its_parent(schedule):
    ensemble = Ensemble([table(1), table(2)], LeastProbable([0.9, 0.1]), schedule=schedule)
    greedy = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    (found,) = ensemble.generate([[1]], greedy)
    (expected,) = ensemble.with_plan(Plan(schedule="plain")).generate([[1]], greedy)
    assert found.token_ids == expected.token_ids
    with pytest.raises(InvalidSchedule, match="draws each token from one member of a weighted mixture"):
        ensemble.with_plan(Plan(schedule="mixture"))

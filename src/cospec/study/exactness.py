"""The exactness self-test: does this ensemble, on this machine, decode what `plain` decodes?

Each schedule is compared with `plain` in three ways: coupled text and greedy text must be equal token by token, and
samples must follow one distribution, by a two-sample test. Where texts first differ, the gap between plain's two best
tokens tells a tie of floating-point rounding from a fault.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ..core.draws import Draws
from ..core.events import Result
from ..core.params import SamplingParams
from ..ensemble import Ensemble, Prompt
from ..errors import InvalidSchedule
from ..schedule import PACED, Plan, schedule_class, schedule_names
from .methods import first_error
from .results import OURS, PLAIN

# Logits in float32 differ by about 1e-5 between forward passes of different shapes, in half precision by about 0.1.
TIE_GAP = {torch.float32: 1e-3, torch.float64: 1e-9}
HALF_PRECISION_TIE_GAP = 0.25
# Probability that an exact ensemble fails the sampled test at least once in a whole run.
FAMILY_ERROR = 1e-3
SAMPLED_LENGTH = 4
NUM_JOINT_CELLS = 16

Sample = tuple[int, ...]


@dataclass(frozen=True)
class Difference:
    """Where a text first differs from plain's. gap: between plain's two best tokens there, in log-probability, with
    the noise that coupled decoding adds to them."""

    prompt_index: int
    position: int
    gap: float
    is_tie: bool


@dataclass(frozen=True)
class Check:
    """One line of the self-test. detail: what was compared. p_value: the lowest of a sampled check, which fails under
    `threshold`. error: of a sequence that failed."""

    name: str
    schedule: str
    verification: str
    is_passed: bool
    detail: str
    differences: tuple[Difference, ...] = ()
    p_value: float | None = None
    threshold: float | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is compared: tokens of a text in the equality checks, samples of a prompt in the sampled check."""

    max_tokens: int = 64
    num_samples: int = 200
    num_sampled_prompts: int = 2
    seed: int = 0


def self_test(ensemble: Ensemble, prompts: Sequence[Prompt], effort: Effort) -> Iterator[Check]:
    """Run every check that the ensemble allows, lazily, in each group the ensemble's own plan first."""
    yield from coupled_checks(ensemble, prompts, effort)
    yield from greedy_checks(ensemble, prompts, effort)
    yield from sampled_checks(ensemble, prompts[: effort.num_sampled_prompts], effort)


def num_checks(ensemble: Ensemble) -> int:
    """The number of lines that `self_test` yields."""
    plans = tested_plans(ensemble).values()
    coupled = sum(_can_run(ensemble, replace(plan, verification="coupled"), SamplingParams()) for plan in plans)
    greedy = sum(_can_run(ensemble, plan, SamplingParams(temperature=0)) for plan in plans)
    return coupled + greedy + len(_sampled_plans(ensemble))


def tested_plans(ensemble: Ensemble) -> dict[str, Plan]:
    """The ensemble's own plan, then those that each schedule names for verification, as far as they can run here.

    Names are the schedule's, with who drafts where the plan says so. Verification is by token.
    """
    own = ensemble.plan
    if own.name == OURS:
        own = replace(own, proposer=None)
    setting = ensemble.setting(SamplingParams())
    plans = [own]
    for name in schedule_names():
        schedule = schedule_class(name)
        plans += schedule.verified(setting)
        if len(ensemble.drafter_names) > 1:
            gamma = PACED if schedule.can_be_paced else None
            plans += [Plan(schedule=name, gamma=gamma, proposer=special) for special in schedule.special_proposers]
    named: dict[str, Plan] = {}
    for plan in plans:
        by_token = replace(plan, verification="token")
        if plan.name != PLAIN and _can_run(ensemble, by_token, SamplingParams()):
            named.setdefault(f"{plan.name} by {plan.proposer}" if plan.proposer else plan.name, by_token)
    return named


def _can_run(ensemble: Ensemble, plan: Plan, params: SamplingParams) -> bool:
    try:
        ensemble.with_plan(plan).schedule_for(params)
    except InvalidSchedule:
        return False
    return True


def _plain(ensemble: Ensemble, verification: str) -> Ensemble:
    return ensemble.with_plan(schedule="plain", gamma=None, proposer=None, verification=verification)


def coupled_checks(ensemble: Ensemble, prompts: Sequence[Prompt], effort: Effort) -> Iterator[Check]:
    """Each schedule's coupled text against plain's, token by token."""
    params = SamplingParams(max_tokens=effort.max_tokens, seed=effort.seed)
    return _equality_checks("coupled text", "coupled", ensemble, prompts, params, _coupled_gap)


def greedy_checks(ensemble: Ensemble, prompts: Sequence[Prompt], effort: Effort) -> Iterator[Check]:
    """Each schedule's text at temperature 0 against plain's, token by token."""
    params = SamplingParams(max_tokens=effort.max_tokens, temperature=0, logprobs=2, seed=effort.seed)
    return _equality_checks("greedy text", "token", ensemble, prompts, params, _greedy_gap)


# How far apart the two best tokens were at a position of plain's result: (result, position, plain, prompt) -> gap.
Gap = Callable[[Result, int, Ensemble, Prompt], float]


def _equality_checks(
    name: str, verification: str, ensemble: Ensemble, prompts: Sequence[Prompt], params: SamplingParams, gap: Gap
) -> Iterator[Check]:
    plain = _plain(ensemble, verification)
    expected = plain.generate(prompts, params)
    for title, tested in tested_plans(ensemble).items():
        plan = replace(tested, verification=verification)
        if not _can_run(ensemble, plan, params):
            continue
        results = ensemble.with_plan(plan).generate(prompts, params)
        differences = tuple(
            _difference(one, other, plain, prompts, gap)
            for one, other in zip(expected, results, strict=True)
            # A sequence that failed is an error and no difference.
            if one.token_ids != other.token_ids and not (one.error or other.error)
        )
        error = first_error([*expected, *results])
        num_tokens = sum(len(result.token_ids) for result in expected)
        num_equal = len(expected) - len(differences)
        yield Check(
            name=name,
            schedule=f"{title} ({results[0].plan})" if results[0].is_plan_chosen else title,
            verification=verification,
            is_passed=error is None and all(difference.is_tie for difference in differences),
            detail=error or f"{num_equal} of {len(expected)} texts equal, {num_tokens} tokens",
            differences=differences,
            error=error,
        )


def _difference(one: Result, other: Result, plain: Ensemble, prompts: Sequence[Prompt], gap: Gap) -> Difference:
    """The first difference between plain's result and another."""
    pairs = zip(one.token_ids, other.token_ids, strict=False)
    shortest = min(len(one.token_ids), len(other.token_ids))
    position = next((i for i, (a, b) in enumerate(pairs) if a != b), shortest)
    position = min(position, len(one.token_ids) - 1)
    size = gap(one, position, plain, prompts[one.prompt_index])
    tie_gap = max(TIE_GAP.get(dtype, HALF_PRECISION_TIE_GAP) for dtype in plain.dtypes)
    return Difference(one.prompt_index, position, size, size <= tie_gap)


def _greedy_gap(result: Result, position: int, plain: Ensemble, prompt: Prompt) -> float:
    assert result.logprobs is not None
    (_, first), (_, second), *_ = result.logprobs[position].top
    return first - second


def _coupled_gap(result: Result, position: int, plain: Ensemble, prompt: Prompt) -> float:
    """Of the log-probabilities plus Gumbel noise, whose largest is the token. Plain runs again for the whole row."""
    size = plain.vocab_size
    params = SamplingParams(max_tokens=position + 1, seed=result.seed, logprobs=size)
    (again,) = plain.generate([prompt], params)
    assert again.logprobs is not None
    row = torch.full((1, size), -torch.inf)
    for token, logprob in again.logprobs[position].top:
        row[0, token] = logprob
    first, second = (row + Draws(result.seed, result.index).gumbel(position, 1, row))[0].topk(2).values.tolist()
    return float(first - second)


def _sampled_plans(ensemble: Ensemble) -> list[tuple[str, Plan]]:
    """Each tested plan by token; `fixed`, whose blocks are verified against r itself, and the ensemble's own schedule
    under every other verification that samples as well."""
    with_kinds = {"fixed", ensemble.plan.name} - {OURS}
    kinds = dict.fromkeys(("token", "block"))
    if ensemble.plan.verification != "coupled":
        kinds = dict.fromkeys((ensemble.plan.verification, *kinds))
    return [
        (name, replace(plan, verification=kind))
        for name, plan in tested_plans(ensemble).items()
        for kind in (kinds if plan.name in with_kinds else ("token",))
    ]


def sampled_checks(ensemble: Ensemble, prompts: Sequence[Prompt], effort: Effort) -> Iterator[Check]:
    """Samples of each schedule against plain's, by a two-sample test."""
    expected, plain_error = _samples(_plain(ensemble, "token"), prompts, effort, seed=effort.seed + 1)
    plans = _sampled_plans(ensemble)
    for number, (name, plan) in enumerate(plans, start=2):
        # With a seed `auto` keeps to one plan; without one, its changes of plan are tested too.
        seed = effort.seed + number if plan.name != OURS else None
        samples, own_error = _samples(ensemble.with_plan(plan), prompts, effort, seed)
        error = own_error or plain_error
        if error is not None:
            yield Check("sampled text", name, plan.verification, is_passed=False, detail=error, error=error)
            continue
        p_values = [p for one, other in zip(expected, samples, strict=True) for p in two_sample_p_values(one, other)]
        lowest, threshold = min(p_values), FAMILY_ERROR / (len(p_values) * len(plans))
        compared = f"{effort.num_samples} samples each of {len(prompts)} prompts"
        yield Check(
            name="sampled text",
            schedule=name,
            verification=plan.verification,
            is_passed=lowest >= threshold,
            detail=f"{compared}, lowest p {lowest:.2g} (fails under {threshold:.1g})",
            p_value=lowest,
            threshold=threshold,
        )


def _samples(
    ensemble: Ensemble, prompts: Sequence[Prompt], effort: Effort, seed: int | None
) -> tuple[list[list[Sample]], str | None]:
    """Sampled continuations of each prompt, and the error of a sequence that failed."""
    params = SamplingParams(max_tokens=SAMPLED_LENGTH, n=effort.num_samples, seed=seed)
    results = ensemble.generate(prompts, params)
    samples: list[list[Sample]] = [[] for _ in prompts]
    for result in results:
        samples[result.prompt_index].append(tuple(result.token_ids))
    return samples, first_error(results)


def two_sample_p_values(one: list[Sample], other: list[Sample]) -> list[float]:
    """p-values of the hypothesis that two samples of equal size have one distribution: of the token at each position,
    -1 standing behind a text's end, and of the whole text, hashed into a few cells."""
    p_values = []
    for position in range(max(map(len, (*one, *other)))):
        first, second = (
            Counter(text[position] if position < len(text) else -1 for text in sample) for sample in (one, other)
        )
        p_values.append(_chi_square_p(first, second))
    first, second = (Counter(hash(text) % NUM_JOINT_CELLS for text in sample) for sample in (one, other))
    return [*p_values, _chi_square_p(first, second)]


def _chi_square_p(one: Counter[int], other: Counter[int]) -> float:
    """Pearson's two-sample test; cells with fewer than ten observations are pooled."""
    cells = [(one[key], other[key]) for key in one | other]
    large = [cell for cell in cells if sum(cell) >= 10]
    small = [cell for cell in cells if sum(cell) < 10]
    if small:
        large.append((sum(a for a, _ in small), sum(b for _, b in small)))
    if len(large) < 2:
        return 1.0
    statistic = sum((a - b) ** 2 / (a + b) for a, b in large)
    half = torch.tensor([(len(large) - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))

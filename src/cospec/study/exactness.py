"""The exactness self-test: does this ensemble, on this machine, decode what `plain` decodes?

Each schedule is compared with `plain` in three ways: coupled text and greedy text must be equal token by token, and
samples must follow one distribution, by a two-sample test and by a test of each token against r (`fit`), under every
verification that samples. Where texts first differ, the gap between plain's two best tokens tells a tie of
floating-point rounding from a fault. With invariant numerics there are no such ties, and every difference is a fault.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from ..core.draws import Draws
from ..core.events import Result
from ..core.params import SamplingParams
from ..ensemble import Ensemble, Prompt
from ..errors import InvalidSchedule
from ..names import VERIFICATIONS
from ..schedule import PACED, Plan, plans, schedule_class, schedule_names
from . import fit
from .effort import Effort
from .methods import first_error, reason
from .results import PLAIN

logger = logging.getLogger(__name__)

# Logits in float32 differ by about 1e-5 between forward passes of different shapes, in half precision by about 0.1.
TIE_GAP = {torch.float32: 1e-3, torch.float64: 1e-9}
HALF_PRECISION_TIE_GAP = 0.25
# Probability that an exact ensemble fails the sampled test at least once in a whole run.
FAMILY_ERROR = 1e-3
SAMPLED_LENGTH = 8
NUM_JOINT_CELLS = 16
# The name of checks of samples; all others are of texts that must be equal.
SAMPLED = "sampled text"

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
    """One line of the self-test. detail: what was found. p_value: the lowest of a sampled check, which fails under
    `threshold`. error: of a sequence that failed. num_texts, num_equal: of an equality check."""

    name: str
    schedule: str
    verification: str
    is_passed: bool
    detail: str
    differences: tuple[Difference, ...] = ()
    p_value: float | None = None
    threshold: float | None = None
    error: str | None = None
    num_texts: int | None = None
    num_equal: int | None = None

    @property
    def outcome(self) -> Literal["equal", "ties", "different", "passed", "failed"]:
        """Of texts that must be equal: equal; ties, where they differ, but first where two tokens were equally likely
        up to rounding; or different. Of samples, and of a sequence that failed: passed or failed."""
        if self.name == SAMPLED or self.error is not None:
            return "passed" if self.is_passed else "failed"
        return "different" if not self.is_passed else "ties" if self.differences else "equal"

    @property
    def largest_tie(self) -> float | None:
        """The largest gap of the differences that are ties; None where there are none."""
        return max((each.gap for each in self.differences if each.is_tie), default=None)


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
    return coupled + greedy + len(_sampled_cases(ensemble))


def sampled_verifications(ensemble: Ensemble) -> list[str]:
    """The ensemble's own verification, the default, then the others, without `coupled`, which has checks of its own."""
    kinds = dict.fromkeys((ensemble.plan.verification, Plan().verification, *VERIFICATIONS))
    return [kind for kind in kinds if kind != "coupled"]


def tested_plans(ensemble: Ensemble) -> dict[str, Plan]:
    """The ensemble's own plan; then those that each schedule names for verification; then, of schedules that name none,
    those that `auto` may choose. As far as they can run here, under the first of `sampled_verifications`.

    Names are the schedule's, with who drafts where the plan says so.
    """
    verification = sampled_verifications(ensemble)[0]
    setting = ensemble.setting(SamplingParams())
    named: dict[str, Plan] = {}
    for plan in (ensemble.plan, *_named_for_verification(ensemble)):
        _add(named, ensemble, replace(plan, verification=verification))
    verified = {plan.name for plan in named.values()}
    for plan in plans(setting, verification):
        if plan.name not in verified:
            _add(named, ensemble, plan)
    return named


def _named_for_verification(ensemble: Ensemble) -> Iterator[Plan]:
    setting = ensemble.setting(SamplingParams())
    for name in schedule_names():
        try:
            schedule = schedule_class(name)
            yield from schedule.verified(setting)
        except Exception as error:  # another package's schedule may raise anything
            logger.warning("the self-test leaves out the schedule %r: %s", name, reason(error))
            continue
        if len(ensemble.drafter_names) > 1:
            gamma = PACED if schedule.can_be_paced else None
            yield from (Plan(schedule=name, gamma=gamma, proposer=special) for special in schedule.special_proposers)


def _add(named: dict[str, Plan], ensemble: Ensemble, plan: Plan) -> None:
    if plan.name == PLAIN or not _can_run(ensemble, plan, SamplingParams()):
        return
    drafts_by_one = plan.proposer and not _chooses(ensemble.with_plan(plan))
    named.setdefault(f"{plan.name} by {plan.proposer}" if drafts_by_one else plan.name, plan)


def _chooses(ensemble: Ensemble) -> bool:
    """Whether its plan is chosen among several while it decodes."""
    planner = ensemble.planner_for(SamplingParams())
    return planner is not None and len(planner.plans) > 1


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
    verification = sampled_verifications(ensemble)[0]
    return _equality_checks("greedy text", verification, ensemble, prompts, params, _greedy_gap)


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
            num_texts=len(expected),
            num_equal=num_equal,
        )


def _difference(one: Result, other: Result, plain: Ensemble, prompts: Sequence[Prompt], gap: Gap) -> Difference:
    """The first difference between plain's result and another."""
    position = min(first_difference(one.token_ids, other.token_ids), len(one.token_ids) - 1)
    size = gap(one, position, plain, prompts[one.prompt_index])
    is_tie = not plain.is_invariant and size <= tie_gap(plain)
    return Difference(one.prompt_index, position, size, is_tie)


def first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    """Where two texts first differ: the length of the shorter one, if that is how the other begins."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def tie_gap(ensemble: Ensemble) -> float:
    """How far apart log-probabilities may lie whose order rounding turns: by the runners' own word, or their types."""
    return max(
        float(getattr(runner, "tie_gap", TIE_GAP.get(runner.dtype, HALF_PRECISION_TIE_GAP)))
        for runner in ensemble.runners
    )


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


# Which plan of those that an ensemble may run under one plan: while it measures; without, as with a seed; or the one
# that it chose.
Variant = Literal["", " with a seed", ", its choice"]


@dataclass(frozen=True, kw_only=True)
class SampledCase:
    """A plan that samples are drawn under. title: what it is called without the variant."""

    title: str
    plan: Plan
    variant: Variant = ""


def _sampled_cases(ensemble: Ensemble) -> list[SampledCase]:
    """Each tested plan under every verification that samples. The ensemble's own also as requests with a seed run it,
    where it measures without one, and as it was chosen, where it chooses."""
    tested, kinds = tested_plans(ensemble), sampled_verifications(ensemble)
    cases = [
        SampledCase(title=title, plan=replace(plan, verification=kind))
        for kind in kinds
        for title, plan in tested.items()
    ]
    title, own = next(iter(tested.items()), ("", ensemble.plan))
    variants: list[Variant] = []
    if _is_own(ensemble, own):
        variants += [", its choice"] if _chooses(ensemble.with_plan(own)) else []
        variants += [" with a seed"] if _measures(ensemble, own) else []
    more = [SampledCase(title=title, plan=own, variant=variant) for variant in variants]
    return [*cases[:1], *more, *cases[1:]]


def _is_own(ensemble: Ensemble, plan: Plan) -> bool:
    return replace(plan, verification=ensemble.plan.verification) == ensemble.plan


def _measures(ensemble: Ensemble, plan: Plan) -> bool:
    """Whether what it measures changes how it decodes, without a seed."""
    return ensemble.with_plan(plan).planner_for(SamplingParams()) is not None


def sampled_checks(ensemble: Ensemble, prompts: Sequence[Prompt], effort: Effort) -> Iterator[Check]:
    """Samples of each plan against plain's, by a two-sample test, and against the rows of r, token by token."""
    expected, plain_error = _samples(_plain(ensemble, "token"), prompts, effort, seed=effort.seed + 1)
    cases, fitted = _sampled_cases(ensemble), fit.Fit(ensemble, prompts, SAMPLED_LENGTH)
    for number, case in enumerate(cases, start=2):
        # Without a seed the own plan measures, and changes what it runs by that.
        is_free = case.variant == "" and _is_own(ensemble, case.plan) and _measures(ensemble, case.plan)
        running, chosen = _running(ensemble, case)
        samples, error = _samples(running, prompts, effort, None if is_free else effort.seed + number)
        p_values: list[float] = []
        if not (error or plain_error):
            p_values = [
                p for one, other in zip(expected, samples, strict=True) for p in two_sample_p_values(one, other)
            ]
            try:
                p_values += fit.p_values(fitted.excesses(samples))
            except Exception as raised:  # a member may raise anything
                error = reason(raised)
        title = case.title + case.variant + (f" ({chosen})" if chosen else "")
        yield _sampled_check(title, case.plan.verification, p_values, len(cases), error or plain_error)


def _sampled_check(title: str, verification: str, p_values: list[float], num_cases: int, error: str | None) -> Check:
    if error is not None:
        return Check(SAMPLED, title, verification, is_passed=False, detail=error, error=error)
    lowest, threshold = min(p_values), FAMILY_ERROR / (len(p_values) * num_cases)
    return Check(
        name=SAMPLED,
        schedule=title,
        verification=verification,
        is_passed=lowest >= threshold,
        detail=f"lowest p {lowest:.2g}",
        p_value=lowest,
        threshold=threshold,
    )


def _running(ensemble: Ensemble, case: SampledCase) -> tuple[Ensemble, str | None]:
    """What decodes a case, and where it runs the plan that was chosen, or what stands for it with a seed, its name."""
    changed = ensemble.with_plan(case.plan)
    if case.variant == " with a seed":
        used = changed.schedule_for(SamplingParams(seed=0)).name
        return changed, used if used != case.plan.name else None
    planner = changed.planner_for(SamplingParams()) if case.variant else None
    if planner is None:
        return changed, None
    # Nothing is chosen before every exploration was run, which few short samples may not be enough for.
    chosen = planner.chosen or next(iter(planner.plans))
    schedule = planner.plans[chosen]
    return ensemble.with_plan(Plan(schedule=schedule, verification=case.plan.verification)), chosen


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
    return fit.chi_square_p(sum((a - b) ** 2 / (a + b) for a, b in large), len(large) - 1)

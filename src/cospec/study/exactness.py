"""The exactness self-test: does this ensemble, on this machine, give the text of `plain`?

Three checks, each schedule against `plain`: coupled text equal token by token; greedy text equal; and sampled
continuations of one law, by a two-sample test. At a first difference the gap between the two best tokens tells a tie
of floating-point rounding from a fault.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ..core.draws import Draws
from ..core.events import Result
from ..core.params import SamplingParams
from ..ensemble import Ensemble, Prompt
from ..errors import InvalidSchedule
from ..schedule import EACH, PACED

# Logits in float32 differ by about 1e-5 between calls of different shapes, in half precision by about 0.1.
TIE_GAP = {torch.float32: 1e-3, torch.float64: 1e-9}
HALF_PRECISION_TIE_GAP = 0.25
# Probability that a sound ensemble fails the sampled test once in a whole run.
FAMILY_ERROR = 1e-3
SAMPLED_LENGTH = 4
NUM_JOINT_CELLS = 16


@dataclass(frozen=True)
class Difference:
    """Where a text first differs from plain's: the gap, in log-probability, that decided plain's token there."""

    prompt_index: int
    position: int
    gap: float
    is_tie: bool


@dataclass(frozen=True)
class Check:
    """One line of the table. detail: what was compared; p_value: of a sampled check, before the allowance, which fails
    under `threshold`; error: why a text could not be decoded."""

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
    """How much is compared: tokens a text in the equality checks, samples a prompt in the sampled one."""

    max_tokens: int = 64
    num_samples: int = 200
    num_sampled_prompts: int = 2
    seed: int = 0


def self_test(ensemble: Ensemble, prompts: Sequence[Prompt], effort: Effort) -> Iterator[Check]:
    """Run every check that the ensemble's members allow, one after the other, the ensemble's own plan first."""
    yield from coupled_checks(ensemble, prompts, effort)
    yield from greedy_checks(ensemble, prompts, effort)
    yield from sampled_checks(ensemble, prompts[: effort.num_sampled_prompts], effort)


def coupled_checks(ensemble: Ensemble, prompts: Sequence[Prompt], effort: Effort) -> Iterator[Check]:
    """Each schedule's coupled text against plain's, token by token."""
    params = SamplingParams(max_tokens=effort.max_tokens, seed=effort.seed)
    yield from _equality_checks("coupled text", ensemble, prompts, _Mode("coupled", params, _noisy_gap))


def greedy_checks(ensemble: Ensemble, prompts: Sequence[Prompt], effort: Effort) -> Iterator[Check]:
    """Each schedule's text at temperature 0 against plain's, token by token."""
    params = SamplingParams(max_tokens=effort.max_tokens, temperature=0, logprobs=2, seed=effort.seed)
    yield from _equality_checks("greedy text", ensemble, prompts, _Mode("token", params, _greedy_gap))


def num_checks(ensemble: Ensemble) -> int:
    """How many lines `self_test` will give."""
    coupled = sum(_is_legal(ensemble, variant, "coupled", SamplingParams()) for variant in _variants(ensemble))
    greedy = sum(_is_legal(ensemble, v, "token", SamplingParams(temperature=0)) for v in _variants(ensemble))
    return coupled + greedy + len(_sampled_variants(ensemble))


@dataclass(frozen=True)
class _Variant:
    schedule: str
    gamma: int | tuple[int, ...] | str | None
    proposer: str | None

    def __str__(self) -> str:
        """The schedule, and who drafts where it is no member."""
        return f"{self.schedule} by {self.proposer}" if self.proposer else self.schedule


def _variants(ensemble: Ensemble) -> list[_Variant]:
    """The ensemble's own plan, then each schedule by its defaults, and with each drafter."""
    plan = ensemble.plan
    own = _Variant(plan.name, plan.gamma, plan.proposer if plan.schedule != "auto" else None)
    first = ensemble.member_names[0] if ensemble.drafter_names else None
    rest = [_Variant("fixed", 3, first), _Variant("alternate", None, None), _Variant("mixture", None, None)]
    for name in ensemble.drafter_names:
        rest += [_Variant("fixed", PACED, name), _Variant("mixture", PACED, name), _Variant("cascade", None, name)]
    if len(ensemble.drafter_names) > 1:
        rest.append(_Variant("mixture", PACED, EACH))
    candidates = [own, *(variant for variant in rest if str(variant) != str(own))]
    drafting = [variant for variant in candidates if variant.schedule != "plain"]
    return [variant for variant in drafting if _is_legal(ensemble, variant, "token", SamplingParams())]


def _is_legal(ensemble: Ensemble, variant: _Variant, verification: str, params: SamplingParams) -> bool:
    try:
        _planned(ensemble, variant, verification).schedule_for(params)
    except InvalidSchedule:
        return False
    return True


def _planned(ensemble: Ensemble, variant: _Variant, verification: str) -> Ensemble:
    return ensemble.with_plan(
        schedule=variant.schedule, gamma=variant.gamma, proposer=variant.proposer, verification=verification
    )


def _plain(ensemble: Ensemble, verification: str) -> Ensemble:
    return _planned(ensemble, _Variant("plain", None, None), verification)


@dataclass(frozen=True)
class _Mode:
    """What an equality check decodes by, and how far apart plain's two best tokens are at a position."""

    verification: str
    params: SamplingParams
    gap: Callable[[Result, int, Ensemble, Prompt], float]


def _equality_checks(name: str, ensemble: Ensemble, prompts: Sequence[Prompt], mode: _Mode) -> Iterator[Check]:
    plain = _plain(ensemble, mode.verification)
    expected = plain.generate(prompts, mode.params)
    for variant in _variants(ensemble):
        if not _is_legal(ensemble, variant, mode.verification, mode.params):
            continue
        given = _planned(ensemble, variant, mode.verification).generate(prompts, mode.params)
        differences = tuple(
            _difference(one, other, plain, prompts, mode)
            for one, other in zip(expected, given, strict=True)
            # A text that failed is no other text.
            if one.token_ids != other.token_ids and not (one.error or other.error)
        )
        failed = [result.error for result in (*expected, *given) if result.error]
        num_equal = len(expected) - len(differences)
        num_tokens = sum(len(result.token_ids) for result in expected)
        detail = failed[0] if failed else f"{num_equal} of {len(expected)} texts equal, {num_tokens} tokens"
        is_passed = not failed and all(difference.is_tie for difference in differences)
        error = failed[0] if failed else None
        yield Check(name, _told(variant, given), mode.verification, is_passed, detail, differences, error=error)


def _difference(one: Result, other: Result, plain: Ensemble, prompts: Sequence[Prompt], mode: _Mode) -> Difference:
    pairs = zip(one.token_ids, other.token_ids, strict=False)
    shortest = min(len(one.token_ids), len(other.token_ids))
    position = next((i for i, (a, b) in enumerate(pairs) if a != b), shortest)
    position = min(position, len(one.token_ids) - 1)
    gap = mode.gap(one, position, plain, prompts[one.prompt_index])
    return Difference(one.prompt_index, position, gap, gap <= _tie_gap(plain))


def _greedy_gap(result: Result, position: int, plain: Ensemble, prompt: Prompt) -> float:
    assert result.logprobs is not None
    (_, first), (_, second), *_ = result.logprobs[position].top
    return first - second


def _noisy_gap(result: Result, position: int, plain: Ensemble, prompt: Prompt) -> float:
    """The same with the noise that coupled decoding adds: plain is run again up to there for the whole row."""
    size = plain.vocab_size
    params = SamplingParams(max_tokens=position + 1, seed=result.seed, logprobs=size)
    (again,) = plain.generate([prompt], params)
    assert again.logprobs is not None
    row = torch.full((1, size), -torch.inf)
    for token, logprob in again.logprobs[position].top:
        row[0, token] = logprob
    first, second = (row + Draws(result.seed, result.index).gumbel(position, 1, row))[0].topk(2).values.tolist()
    return float(first - second)


def _tie_gap(ensemble: Ensemble) -> float:
    return max(TIE_GAP.get(dtype, HALF_PRECISION_TIE_GAP) for dtype in ensemble.dtypes)


def _sampled_variants(ensemble: Ensemble) -> list[tuple[_Variant, str]]:
    own = ensemble.plan.verification
    pairs = []
    for variant in _variants(ensemble):
        kinds = dict.fromkeys((own, "token", "block")) if variant.schedule == "fixed" else {"token": None}
        pairs += [(variant, kind) for kind in kinds if kind != "coupled"]
    return pairs


def sampled_checks(ensemble: Ensemble, prompts: Sequence[Prompt], effort: Effort) -> Iterator[Check]:
    """Samples of each schedule against plain's, by a two-sample test."""
    expected, plain_error = _samples(_plain(ensemble, "token"), prompts, effort, seed=effort.seed + 1)
    pairs = _sampled_variants(ensemble)
    for number, (variant, verification) in enumerate(pairs, start=2):
        # With a seed `auto` keeps to one plan, and that it changes plans is to be seen too.
        seed = effort.seed + number if variant.schedule != "auto" else None
        given, error = _samples(_planned(ensemble, variant, verification), prompts, effort, seed)
        error = error or plain_error
        if error is not None:
            yield Check("sampled text", str(variant), verification, is_passed=False, detail=error, error=error)
            continue
        p_values = [p for a, b in zip(expected, given, strict=True) for p in two_sample_p_values(a, b)]
        lowest = min(p_values)
        allowed = FAMILY_ERROR / (len(p_values) * len(pairs))
        compared = f"{effort.num_samples} samples each of {len(prompts)} prompts"
        detail = f"{compared}, lowest p {lowest:.2g} (fails under {allowed:.1g})"
        is_passed = lowest >= allowed
        yield Check("sampled text", str(variant), verification, is_passed, detail, p_value=lowest, threshold=allowed)


def _told(variant: _Variant, results: Sequence[Result]) -> str:
    """The schedule's name, with what `auto` picked."""
    picked = results[0].schedule
    return str(variant) if picked == variant.schedule else f"{variant} ({picked})"


def _samples(
    ensemble: Ensemble, prompts: Sequence[Prompt], effort: Effort, seed: int | None
) -> tuple[list[list[tuple[int, ...]]], str | None]:
    """For each prompt its sampled continuations; and what ended one of them, if one failed."""
    params = SamplingParams(max_tokens=SAMPLED_LENGTH, n=effort.num_samples, seed=seed)
    texts: list[list[tuple[int, ...]]] = [[] for _ in prompts]
    error = None
    for result in ensemble.generate(prompts, params):
        texts[result.prompt_index].append(tuple(result.token_ids))
        error = error or result.error
    return texts, error


_View = Callable[[tuple[int, ...]], int]


def two_sample_p_values(one: list[tuple[int, ...]], other: list[tuple[int, ...]]) -> list[float]:
    """Of the hypothesis that two equally large samples of texts have one law: by position, and of the whole text."""
    length = max(map(len, (*one, *other)))
    views: list[_View] = [partial(_token_at, position) for position in range(length)]
    views.append(_joint_cell)
    return [_chi_square_p(Counter(map(view, one)), Counter(map(view, other))) for view in views]


def _token_at(position: int, text: tuple[int, ...]) -> int:
    """-1 behind the end of the text."""
    return text[position] if position < len(text) else -1


def _joint_cell(text: tuple[int, ...]) -> int:
    """One of a few cells that the whole text falls into."""
    return hash(text) % NUM_JOINT_CELLS


def _chi_square_p(one: Counter[int], other: Counter[int]) -> float:
    """Pearson's two-sample test; cells with fewer than ten in all are pooled into one."""
    cells = [(one[key], other[key]) for key in one | other]
    large = [cell for cell in cells if sum(cell) >= 10]
    pooled = tuple(map(sum, zip(*(cell for cell in cells if sum(cell) < 10), strict=True))) or (0, 0)
    if sum(pooled):
        large.append(pooled)  # type: ignore[arg-type]
    if len(large) < 2:
        return 1.0
    statistic = sum((a - b) ** 2 / (a + b) for a, b in large)
    half = torch.tensor([(len(large) - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))

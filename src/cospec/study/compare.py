"""Two studies side by side."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from .intervals import geometric
from .results import Interval, Results


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of both studies. first, second: None where not measured. is_better: whether the second is; None where
    they are equal, or where neither direction is better."""

    name: str
    first: float | str | None
    second: float | str | None
    is_better: bool | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """differing: settings in which the studies differ, which may explain differences of figures. second_over_first:
    concurrency -> how many times faster the second is, paired over the prompts that both timed."""

    figures: tuple[Figure, ...]
    differing: tuple[str, ...]
    second_over_first: dict[str, Interval]

    def to_dict(self) -> dict[str, object]:
        """All of it, ready for JSON."""
        return asdict(self)


_SETTINGS = (
    *("ensemble", "members", "target", "drafters", "ours", "verification", "prompts_source", "tokens", "temperature"),
    *("repeats", "score", "score_temperature", "score_tokens", "criteria", "prices"),
)


def compare(first: Results, second: Results) -> Comparison:
    """Figure by figure; speeds are also paired by prompt where both studies timed the same prompts."""
    levels = sorted({*first.settings.concurrencies} & {*second.settings.concurrencies})
    one, other = dict(_figures(first, levels)), dict(_figures(second, levels))
    return Comparison(
        figures=tuple(_figure(name, one.get(name), other.get(name)) for name in {**one, **other}),
        differing=tuple(_differing(first, second)),
        second_over_first={str(n): ratio for n in levels if (ratio := _paired(first, second, n)) is not None},
    )


def _figures(results: Results, levels: list[int]) -> Iterator[tuple[str, float | str | None]]:
    ours = results.settings.ours
    yield "verdict", results.verdict.decision
    yield "go up to", results.verdict.up_to
    for level in levels:
        row = results.speed.row(ours, level)
        mechanism = results.mechanism.row(ours, level)
        cost = results.cost.row(ours, level)
        yield f"tokens/s at {level}", row.tokens_per_second if row else None
        yield f"speed over plain at {level}", row.over_plain.mean if row and row.over_plain else None
        yield f"ms a token, p95, at {level}", row.ms_per_token.p95 if row else None
        yield f"ms to the first token, p95, at {level}", row.first_token_ms.p95 if row else None
        yield f"tokens a block at {level}", mechanism.block_efficiency if mechanism else None
        for proposer in mechanism.proposers if mechanism else ():
            yield f"acceptance of {proposer.name} at {level}", proposer.acceptance
        yield f"cost of a million tokens at {level}", cost.total if cost else None
    kept, gained = results.kept, results.gained
    yield "exact", None if kept.is_exact is None else "yes" if kept.is_exact else "no"
    yield "score", kept.score.ours if kept.score else None
    yield "score over the best member", gained.score_gain.mean if gained.score_gain else None
    yield "best member's perplexity / ours", gained.perplexity_gain.mean if gained.perplexity_gain else None
    yield "memory, bytes", results.cost.memory_total


_LESS_IS_BETTER = ("ms ", "cost ", "memory")


def _figure(name: str, first: float | str | None, second: float | str | None) -> Figure:
    is_better: bool | None = None
    if not isinstance(first, str | None) and not isinstance(second, str | None) and first != second:
        is_better = name.startswith(_LESS_IS_BETTER) == (second < first)
    return Figure(name=name, first=first, second=second, is_better=is_better)


def _differing(first: Results, second: Results) -> Iterator[str]:
    for name in _SETTINGS:
        if getattr(first.settings, name) != getattr(second.settings, name):
            yield name
    for name in ("processor", "threads", "accelerators", "devices", "dtypes", "versions"):
        if getattr(first.environment, name) != getattr(second.environment, name):
            yield name


def _paired(first: Results, second: Results, concurrency: int) -> Interval | None:
    one, other = (_seconds(results, concurrency) for results in (first, second))
    shared = sorted(one.keys() & other.keys())
    return geometric([one[key] for key in shared], [other[key] for key in shared]) if shared else None


def _seconds(results: Results, concurrency: int) -> dict[tuple[tuple[str, str], ...], float]:
    """Seconds a token of the candidate plan, by the prompts of a batch; of the repeats the fastest.

    An id may be a line number only, so that prompts are told apart by their digest as well.
    """
    prompts = [(prompt.id, prompt.digest) for prompt in results.settings.prompts]
    found: dict[tuple[tuple[str, str], ...], float] = {}
    for run in results.measurements:
        if (run.method, run.concurrency) == (results.settings.ours, concurrency):
            key = tuple(prompts[i] for i in run.prompts)
            found[key] = min(found.get(key, float("inf")), run.seconds / run.tokens)
    return found

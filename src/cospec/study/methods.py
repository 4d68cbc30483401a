"""What a study times: methods, each of which decodes a batch of prompts at once."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from ..core.counts import Counts
from ..core.events import Result
from ..core.params import SamplingParams
from ..ensemble import Ensemble, Prompt
from ..errors import CospecError, InvalidBenchmark, UnknownName, one_line
from ..schedule import Plan, schedule_class, schedule_names
from ..schedule.auto import Auto
from .results import OURS, PLAIN, SINGLE

# Prefix of methods whose target is softened, see `relaxed`.
RELAXED = "relaxed:"


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A batch of sequences that were decoded at once.

    tokens: of all sequences together. counts: what they cost; None for a peer. first_token_seconds, text_seconds: of
    each sequence, from the start of the batch to its first token and to its end; empty for a peer. error: of the first
    sequence that failed.
    """

    tokens: int
    counts: Counts | None = None
    first_token_seconds: tuple[float, ...] = ()
    text_seconds: tuple[float, ...] = ()
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedMethod:
    """An ensemble that cospec decodes under its plan."""

    name: str
    ensemble: Ensemble
    params: SamplingParams
    held = nullcontext

    @property
    def is_single(self) -> bool:
        """Whether it is one member by itself."""
        return self.name.startswith(SINGLE)

    @property
    def planner(self) -> Auto | None:
        """What chooses the plan while it decodes; None where the plan is fixed."""
        return self.ensemble.planner_for(self.params)

    def decode(self, prompts: Sequence[Prompt]) -> Decoded:
        """Decode all prompts at once."""
        first: dict[int, float] = {}
        last: dict[int, float] = {}
        results: list[Result] = []
        started = time.perf_counter()
        for event in self.ensemble.stream(list(prompts), self.params):
            now = time.perf_counter() - started
            if event.tokens:
                first.setdefault(event.prompt_index, now)
            if event.result is not None:
                last[event.prompt_index] = now
                results.append(event.result)
        return Decoded(
            tokens=sum(result.completion_tokens for result in results),
            counts=Counts.total(result.counts for result in results),
            first_token_seconds=tuple(seconds for _, seconds in sorted(first.items())),
            text_seconds=tuple(seconds for _, seconds in sorted(last.items())),
            error=first_error(results),
        )


@dataclass(frozen=True, kw_only=True)
class PeerMethod:
    """What cospec does not decode. decode_one: a prompt -> the number of tokens decoded. held: what it needs, made
    before a run and given up behind it, apart from what is timed."""

    name: str
    decode_one: Callable[[Prompt], int]
    held: Callable[[], AbstractContextManager[None]] = nullcontext
    planner = None

    def decode(self, prompts: Sequence[Prompt]) -> Decoded:
        """Decode one prompt after the other."""
        # In a list: `map` would take a peer's StopIteration for the end of the prompts.
        return Decoded(tokens=sum([self.decode_one(prompt) for prompt in prompts]))


Method = PlannedMethod | PeerMethod


def first_error(results: Sequence[Result]) -> str | None:
    """Why the first sequence that failed did."""
    return next((result.error for result in results if result.error), None)


def reason(error: BaseException) -> str:
    """Why a method cannot run, in one line."""
    own = " ".join(str(error).split()) if isinstance(error, CospecError) else ""
    return own or one_line(error)


def planned(
    ensemble: Ensemble, plans: Mapping[str, Plan], params: SamplingParams
) -> tuple[list[PlannedMethod], dict[str, Exception]]:
    """The plans, by name, that can decode this ensemble under this sampling, and what the others raise."""
    methods: list[PlannedMethod] = []
    skipped: dict[str, Exception] = {}
    for name, plan in plans.items():
        try:
            changed = ensemble.with_plan(replace(plan, verification=ensemble.plan.verification))
            changed.schedule_for(params)
        except Exception as error:  # another package's schedule may raise anything
            skipped[name] = error
        else:
            methods.append(PlannedMethod(name=name, ensemble=changed, params=params))
    return methods, skipped


def singles(ensemble: Ensemble, params: SamplingParams) -> list[PlannedMethod]:
    """Each member by itself."""
    return [
        PlannedMethod(name=SINGLE + name, ensemble=ensemble.alone(name), params=params)
        for name in ensemble.member_names
    ]


def benchmarked(
    ensemble: Ensemble, params: SamplingParams, names: Sequence[str] = ()
) -> tuple[list[PlannedMethod], dict[str, Exception]]:
    """The benchmarked plan of each schedule, `plain` first, or of those named; and what those raise that cannot run."""
    own = ensemble.plan.proposer
    # A schedule with one proposer takes the first drafter; the ensemble's own proposer stands in its place.
    drafters = dict.fromkeys([*([own] if own in ensemble.names else []), *ensemble.drafter_names])
    setting = replace(ensemble.setting(params), drafters=tuple(drafters))
    plans: dict[str, Plan] = {}
    refused: dict[str, Exception] = {}
    for name in names or dict.fromkeys([PLAIN, *schedule_names()]):
        try:
            plan = schedule_class(name).benchmarked(setting)
        except Exception as error:  # another package's schedule may raise anything
            refused[name] = error
        else:
            plans |= {} if plan is None else {name: plan}
    methods, skipped = planned(ensemble, plans, params)
    return methods, refused | skipped


def ours(ensemble: Ensemble) -> str:
    """Name of the candidate plan in a pilot: `auto`, or the ensemble's own plan where that is another."""
    return OURS if ensemble.plan.name in (PLAIN, OURS) else str(ensemble.plan)


def pilot_methods(ensemble: Ensemble, params: SamplingParams) -> list[PlannedMethod]:
    """Each single member, plain, alternate, auto, and the ensemble's own plan, as far as this sampling allows them.

    Raises InvalidSchedule if it does not allow the candidate plan.
    """
    names, candidate = (PLAIN, "alternate", OURS), ours(ensemble)
    methods, skipped = benchmarked(ensemble, params, names)
    own, refused = planned(ensemble, {} if candidate in names else {candidate: ensemble.plan}, params)
    skipped |= refused
    if candidate in skipped:
        raise skipped[candidate]
    return [*singles(ensemble, params), *methods, *own]


def selected(available: Sequence[Method], names: Sequence[str], skipped: Mapping[str, str]) -> list[Method]:
    """The methods named, or all where no names are given.

    Raises UnknownName, or InvalidBenchmark for a method that cannot run, or where `plain` or anything to compare with
    it is missing.
    """
    known = {method.name: method for method in available}
    for name in names:
        if name in skipped:
            raise InvalidBenchmark(f"{name} cannot run: {skipped[name]}")
        if name not in known:
            raise UnknownName("method", name, known)
    methods = [known[name] for name in dict.fromkeys(names)] if names else list(available)
    if len(methods) < 2 or PLAIN not in {method.name for method in methods}:
        raise InvalidBenchmark(
            f"nothing to compare: {[m.name for m in methods]}; name plain, which all are held against, and another"
        )
    return methods

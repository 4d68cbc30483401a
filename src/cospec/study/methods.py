"""What is timed: a method decodes prompts and says how many tokens came of it."""

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Values
from dataclasses import dataclass, replace

from ..core.events import Result
from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..errors import InvalidBenchmark, InvalidSchedule, UnknownName
from ..schedule import Plan
from .bare import bare_forwards
from .peers import assisted, generated, in_parallel, weighted_assisted

Run = Callable[[Values[str]], tuple[int, list[Result]]]
WEIGHTED = "hf-ensemble-weight (not exact)"


@dataclass(frozen=True)
class Method:
    """run: prompts, all at once -> tokens decoded, and results where cospec decoded them. plan: None for a peer.

    is_batched: whether it takes more than one prompt at a time.
    """

    name: str
    run: Run
    plan: Plan | None = None
    is_batched: bool = True


def methods(ensemble: Ensemble, params: SamplingParams, extra: Values[Plan]) -> tuple[list[Method], dict[str, str]]:
    """Every method that these members and this sampling allow, and for the others, by name, why not."""
    found, skipped = [], {}
    for name, plan in _plans(ensemble, extra).items():
        try:
            planned = ensemble.with_plan(plan)
            planned.schedule_for(params)
        except (InvalidSchedule, UnknownName) as error:
            skipped[name] = str(error)
        else:
            found.append(Method(name, _decoding(planned, params), plan))
    peers, missing = _peers(ensemble, params)
    return [*found, *peers], skipped | missing


def chosen(available: list[Method], names: Values[str], skipped: Mapping[str, str]) -> list[Method]:
    """Those named, or all. Raises UnknownName, or InvalidBenchmark for one that cannot run, or where nothing is left to
    compare with `plain`, which all are held against."""
    known = {method.name: method for method in available}
    for name in names:
        if name in skipped:
            raise InvalidBenchmark(f"{name} cannot run: {skipped[name]}")
        if name not in known:
            raise UnknownName("method", name, known)
    picked = [known[name] for name in dict.fromkeys(names)] if names else available
    if len(picked) < 2 or "plain" not in {method.name for method in picked}:
        raise InvalidBenchmark(
            f"nothing to compare: {[m.name for m in picked]}; name plain, which all are held against, and another"
        )
    return picked


def of_schedules(available: list[Method], names: Values[str]) -> list[Method]:
    """Those of these names, or whose schedule has one of them, or all where none are given. Raises InvalidBenchmark
    where nothing but `plain` is left."""
    kept = [m for m in available if not names or m.name in names or (m.plan and m.plan.schedule in names)]
    if len(kept) < 2:
        told = ", ".join(method.name for method in available)
        raise InvalidBenchmark(f"nothing to vary among the methods {', '.join(names)}; here are {told}")
    return kept


def _plans(ensemble: Ensemble, extra: Values[Plan]) -> dict[str, Plan]:
    own = ensemble.plan
    drafter = own.proposer if own.proposer in ensemble.names else next(iter(ensemble.drafter_names), None)
    published = {
        "plain": Plan(schedule="plain"),
        **({"fixed": Plan(schedule="fixed", proposer=drafter)} if drafter or len(ensemble.member_names) > 1 else {}),
        "alternate": Plan(schedule="alternate", gamma=1),
        "mixture": Plan(schedule="mixture"),
        "auto": Plan(schedule="auto"),
    }
    plans = {**published, **{str(plan): plan for plan in extra}}
    return {name: replace(plan, verification=own.verification) for name, plan in plans.items()}


def _decoding(ensemble: Ensemble, params: SamplingParams) -> Run:
    def run(prompts: Values[str]) -> tuple[int, list[Result]]:
        results = ensemble.generate(list(prompts), params)
        failed = next((result.error for result in results if result.error), None)
        if failed:
            raise InvalidBenchmark(f"a text failed, and its time would say nothing: {failed}")
        return sum(result.completion_tokens for result in results), results

    return run


def _peers(ensemble: Ensemble, params: SamplingParams) -> tuple[list[Method], dict[str, str]]:
    """The members alone and in parallel, the bare calls, and what transformers itself offers for them; and why not what
    else there is."""
    missing = {}
    names = dict(zip(ensemble.names, ensemble.runners, strict=True))
    members = {name: names[name] for name in ensemble.member_names}
    peers = [_peer(f"hf:{name}", generated(ensemble, i, params)) for i, name in enumerate(members)]
    peers += [Method(f"single:{name}", _decoding(ensemble.alone(name), params)) for name in ensemble.member_names]
    peers.append(_peer("bare", bare_forwards(ensemble, params)))
    if len({id(runner) for runner in members.values()}) == len(members):
        peers.append(_peer("parallel", in_parallel(ensemble, params)))
    else:
        missing["parallel"] = "members share their weights, and are one call already"
    drafter = next((names[name] for name in ensemble.drafter_names if hasattr(names[name], "model")), None)
    if drafter is not None:
        peers.append(_peer("hf-assisted", assisted(ensemble, drafter, params)))
    else:
        missing["hf-assisted"] = "transformers drafts with a model, and no drafter is one; give one as --proposer"
    if len(members) == 2 and ensemble.combination.name == "mixture" and params.temperature > 0:
        peers.append(_peer(WEIGHTED, weighted_assisted(ensemble, params)))
    else:
        missing[WEIGHTED] = "transformers mixes two models, above temperature 0"
    return peers, missing


def _peer(name: str, one: Callable[[str], int]) -> Method:
    return Method(name, lambda prompts: (sum(map(one, prompts)), []), is_batched=False)

"""From pilot to operation: ensemble files, ready for `cospec serve`, with the plan or the softened target chosen."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ..ensemble import Ensemble
from ..errors import InvalidSchedule, UnknownName
from ..files import plan_settings
from ..members import as_settings
from ..schedule import Plan
from ..storage import keep
from .methods import PlannedMethod
from .results import OURS, PLAIN, Results
from .verdict import Served, in_words, served


def write_ensemble(ensemble: Ensemble, methods: Sequence[PlannedMethod], results: Results, path: Path) -> None:
    """Write the members under the plan that goes into service. Raises CospecError where that cannot be written."""
    chosen = served(results)
    plan = next(method.ensemble.plan for method in methods if method.name == chosen.method)
    _write(path, _header(results, chosen), _settings(ensemble, plan))


def write_relaxed(ensemble: Ensemble, results: Results, path: Path) -> None:
    """Write the softened target where λ above 0 was chosen; its header says that it is another distribution."""
    relaxed = results.relaxed
    if relaxed is None or relaxed.chosen == 0:
        return
    sources = dict(zip(ensemble.names, ensemble.sources, strict=True))
    settings = {
        "members": [as_settings(replace(sources[name], name=name), {}) for name in (relaxed.target, relaxed.drafter)],
        "combine": {"type": "mixture", "weights": [1 - relaxed.chosen, relaxed.chosen]},
        "schedule": "fixed",
        "gamma": relaxed.gamma,
        "proposer": relaxed.drafter,
    }
    lossy = f"LOSSY: this samples from {relaxed.distribution}, exactly, and not from {relaxed.target}."
    _write(path, iter([lossy]), settings)


def _write(path: Path, header: Iterator[str], settings: Mapping[str, Any]) -> None:
    keep(path, "\n".join([*map(_comment, header), yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)]))


def _comment(text: str) -> str:
    """On one line, whatever a command or a name contains: YAML would read a second line as settings."""
    return "# " + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _header(results: Results, chosen: Served) -> Iterator[str]:
    """What was judged, and how."""
    verdict, settings = chosen.verdict, results.settings
    yield f"Written by `{settings.command}`, whose verdict on `{chosen.method}` was {in_words(verdict)}."
    if chosen.method == OURS:
        is_known = results.speed.best == OURS and chosen.concurrency == verdict.concurrency
        plan = results.speed.best_plan if is_known else ""
        settled = f"; in the pilot it settled on `{plan}`" if plan else ""
        yield f"auto goes on measuring in service and changes its plan when another becomes faster{settled}."
    if chosen.method != settings.ours:
        yield f"It was faster than `{settings.ours}`, the candidate plan, by its whole interval."


def _settings(ensemble: Ensemble, plan: Plan) -> dict[str, Any]:
    """The ensemble's own settings, as its file has them, under another plan."""
    sources, common = dict(zip(ensemble.names, ensemble.sources, strict=True)), ensemble.load_options
    combination = {key: _as_yaml(value) for key, value in vars(ensemble.combination).items() if value is not None}
    drafters = {name: as_settings(sources[name], common) for name in ensemble.drafter_names}
    if plan.proposer in ensemble.names:
        proposers = [drafters.get(plan.proposer, plan.proposer)]
    else:
        # All, where the plan chooses among them or has one for each member.
        proposers = list(drafters.values()) if drafters and _takes_drafters(ensemble, plan) else []
    return {
        "members": [as_settings(replace(sources[name], name=name), common) for name in ensemble.member_names],
        "combine": {"type": ensemble.combination.name, **combination},
        **plan_settings(plan, proposers),
        **({"end_tokens": [*ensemble.end_tokens]} if ensemble.end_tokens else {}),
        "max_sequences": ensemble.max_sequences,
        # These apply to drafters too.
        **{key: _as_yaml(value) for key, value in common.items()},
    }


def _takes_drafters(ensemble: Ensemble, plan: Plan) -> bool:
    """Whether the plan's schedule drafts with a model that is no member, given one; `plain` sets it aside."""
    if plan.name == PLAIN:
        return False
    try:
        ensemble.with_plan(plan, gamma=None, proposer=ensemble.drafter_names[0])
    except (InvalidSchedule, UnknownName):
        return False
    return True


def _as_yaml(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

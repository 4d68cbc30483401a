"""From pilot to operation: the ensemble with the plan that was judged, in a file that `cospec serve` takes as it is."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..ensemble import Ensemble
from ..files import plan_settings
from ..members import Member, written
from ..runner.hf import LoadOptions
from ..schedule import Plan
from ..storage import keep
from .results import OURS, Results
from .trials import Trial
from .verdict import Served, served


def write_ensemble(ensemble: Ensemble, trials: list[Trial], results: Results, path: Path) -> None:
    """The members as given, under the plan that goes into service. Raises CospecError where it cannot be written."""
    found = served(results)
    plan = next(trial.ensemble.plan for trial in trials if trial.name == found.method)
    head = map(_comment, _header(results, found))
    keep(path, "\n".join([*head, yaml.safe_dump(_described(ensemble, plan), sort_keys=False, allow_unicode=True)]))


def write_relaxed(ensemble: Ensemble, results: Results, path: Path) -> None:
    """The softened target, where λ above 0 kept quality; it is another distribution, and its file says which."""
    found = results.relaxed
    if found is None or found.chosen == 0:
        return
    sources = dict(zip(ensemble.names, ensemble.sources, strict=True))
    members = [_member(sources[name], name, {}) for name in (found.target, found.drafter)]
    settings = {
        "members": members,
        "combine": {"type": "mixture", "weights": [1 - found.chosen, found.chosen]},
        "schedule": "fixed",
        "gamma": found.gamma,
        "proposer": found.drafter,
    }
    note = _comment(f"LOSSY: this samples from {found.distribution}, exactly, and not from {found.target}.")
    keep(path, f"{note}\n" + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def _header(results: Results, found: Served) -> Iterator[str]:
    verdict, settings = found.verdict, results.settings
    up_to = f" {verdict.up_to} texts at once" if verdict.decision == "go up to" else ""
    yield f"Written by `{settings.command}`, whose verdict on `{found.method}` was {verdict.decision.upper()}{up_to}."
    if found.method == OURS:
        is_known = results.speed.best == OURS and found.concurrency == verdict.concurrency
        plan = results.speed.best_plan if is_known else ""
        settled = f"; in the pilot it settled on `{plan}`" if plan else ""
        yield f"auto goes on measuring in service and changes its plan when another becomes faster{settled}."
    if found.method != settings.ours:
        yield f"It was faster than `{settings.ours}`, which was on trial, by its whole interval."


def _comment(text: str) -> str:
    """On one line, whatever a command or a name holds: YAML would take a second one for settings."""
    return "# " + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _described(ensemble: Ensemble, plan: Plan) -> dict[str, Any]:
    sources = dict(zip(ensemble.names, ensemble.sources, strict=True))
    combination = {key: _plain(value) for key, value in vars(ensemble.combination).items() if value is not None}
    settings: dict[str, Any] = {
        "members": [_member(sources[name], name, ensemble.load_options) for name in ensemble.member_names],
        "combine": {"type": ensemble.combination.name, **combination},
        **plan_settings(plan, _proposers(plan, ensemble, sources)),
        "max_sequences": ensemble.max_sequences,
    }
    # Drafters are loaded as the members are.
    return settings | {key: _plain(value) for key, value in ensemble.load_options.items()}


def _proposers(plan: Plan, ensemble: Ensemble, sources: Mapping[str, Member]) -> list[str]:
    """The plan's own, or all drafters where it is free to choose among them, or has one for each member."""
    drafters = {name: written(sources[name]) for name in ensemble.drafter_names}
    if plan.proposer in ensemble.names:
        return [drafters.get(plan.proposer, plan.proposer)]
    return [] if plan.schedule in ("plain", "alternate") else list(drafters.values())


def _member(source: Member, name: str, of_all: Mapping[str, Any]) -> Mapping[str, Any]:
    defaults = {**vars(LoadOptions()), **of_all}
    options = {key: _plain(value) for key, value in vars(source.options).items() if value != defaults[key]}
    prompt = {"prompt": _plain(source.prompt)} if source.prompt is not None else {}
    return {"model": written(source), "name": name, **prompt, **options}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

"""Let `auto` learn on the user's own prompts until its choice stands, and compare what it predicts with the clock."""

import itertools
import math
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Values
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ..core.params import SamplingParams
from ..ensemble import Ensemble, Prompt
from ..errors import InvalidEnsemble, InvalidPrompt
from ..files import PLAN_SETTINGS, plan_settings
from ..schedule import Plan, Setting, plans
from ..schedule.auto import Auto
from ..schedule.mixture import DrawnMember
from ..storage import keep

# The choice stands once so many texts in a row have left it as it was.
NUM_STEADY = 4
MOST_TEXTS = 60


@dataclass(frozen=True)
class Comparison:
    """One plan: tokens a second of one text, as predicted and as measured."""

    plan: Plan
    predicted: float
    measured: float


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The plan that won, the comparison with `plain`, `plain` first, and what was learned on the way.

    drafters: who drafts under a plan by each, member by member.
    """

    plan: Plan
    drafters: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    acceptances: dict[str, float]
    num_texts: int

    def to_dict(self) -> dict[str, object]:
        """All of it, ready for JSON."""
        return asdict(self)


def tune(ensemble: Ensemble, prompts: Values[Prompt], params: SamplingParams, on_text: Callable[[str], None]) -> Tuning:
    """Decode prompt after prompt until the choice stands, then time it and `plain`.

    on_text: called after each text with the plan that then leads. Raises InvalidPrompt where there is no prompt, or
    where texts are too short for anything to be measured.
    """
    if not prompts:
        raise InvalidPrompt("there is nothing to tune on; give at least one prompt")
    params = replace(params, seed=None)
    learner = ensemble.with_plan(schedule="auto", gamma=None, proposer=None, first=None)
    planner = learner.planner_for(params)
    assert planner is not None
    num_texts = _converge(learner, planner, prompts, params, on_text)
    if not planner.chosen:
        raise InvalidPrompt(
            f"{num_texts} texts of at most {params.max_tokens} tokens ended before a plan could be timed; "
            "give longer texts (--max-tokens) or other prompts"
        )
    predicted = planner.predict()
    chosen = _plan_named(planner.chosen, learner, params)
    plain = replace(chosen, schedule="plain", gamma=None, proposer=None, first=None)
    compared = [plain] if chosen == plain else [plain, chosen]
    speeds = _measured([learner.with_plan(plan) for plan in compared], prompts, params)
    return Tuning(
        plan=chosen,
        drafters=_assigned(planner, learner.names),
        comparisons=tuple(
            Comparison(plan, predicted[str(plan)], speed) for plan, speed in zip(compared, speeds, strict=True)
        ),
        acceptances=_acceptances(learner, planner),
        num_texts=num_texts,
    )


def write_plan(tuning: Tuning, source: Path, out: Path, drafters: Mapping[str, str]) -> None:
    """The ensemble file `source` under the plan that won, as `out`; its other lines stay as they are.

    drafters: name -> model, as the file is to name it.

    Raises InvalidEnsemble where a setting to be replaced stands on several lines, CospecError where `out` cannot be
    written.
    """
    kept = []
    for line, following in itertools.pairwise([*source.read_text(encoding="utf-8").splitlines(), ""]):
        if not line.startswith(tuple(f"{name}:" for name in PLAN_SETTINGS)):
            kept.append(line)
        elif following.startswith((" ", "-")):
            raise InvalidEnsemble(f"{source}: {line!r} goes on in the next line; write it on one line to be replaced")
    plan = plan_settings(tuning.plan, _proposers(tuning, drafters))
    keep(out, "\n".join([*kept, *map(_line, plan.items())]) + "\n")


def _line(setting: tuple[str, Any]) -> str:
    """As an ensemble file has it, on one line, which can be replaced."""
    name, value = setting
    # Lists within brackets, the setting itself not within braces.
    flow = None if isinstance(value, list) else False
    return yaml.safe_dump({name: value}, allow_unicode=True, default_flow_style=flow, width=math.inf).rstrip("\n")


def _proposers(tuning: Tuning, drafters: Mapping[str, str]) -> list[str]:
    """As the file is to name them."""
    names = tuning.drafters or ([tuning.plan.proposer] if tuning.plan.proposer else [])
    return [drafters.get(name, name) for name in names]


def _converge(
    learner: Ensemble,
    planner: Auto,
    prompts: Values[Prompt],
    params: SamplingParams,
    on_text: Callable[[str], None],
) -> int:
    """Decode until the choice stands; how many texts that took."""
    num_steady, leader = 0, ""
    for number, prompt in enumerate(itertools.islice(itertools.cycle(prompts), MOST_TEXTS), start=1):
        learner.generate([prompt], params)
        num_steady = num_steady + 1 if planner.chosen and planner.chosen == leader else 0
        leader = planner.chosen or ""
        on_text(leader)
        if num_steady >= NUM_STEADY:
            return number
    return MOST_TEXTS


def _measured(ensembles: list[Ensemble], prompts: Values[Prompt], params: SamplingParams) -> list[float]:
    """Tokens a second of each, interleaved over the first prompts."""
    tokens, seconds = [0] * len(ensembles), [0.0] * len(ensembles)
    for prompt in prompts[: 2 * NUM_STEADY]:
        for index, ensemble in enumerate(ensembles):
            started = time.perf_counter()
            (result,) = ensemble.generate([prompt], params)
            seconds[index] += time.perf_counter() - started
            tokens[index] += result.completion_tokens
    return [count / max(spent, 1e-9) for count, spent in zip(tokens, seconds, strict=True)]


def _assigned(planner: Auto, names: Values[str]) -> tuple[str, ...]:
    """The drafter of each member, where the plan that won has several."""
    schedule = planner.plans[planner.chosen or ""]
    if not isinstance(schedule, DrawnMember) or schedule.drafters is None or len(schedule.among) == 1:
        return ()
    own = tuple(names[lane] for lane in schedule.drafters)
    return own if len(set(own)) > 1 else own[:1]


def _plan_named(name: str, ensemble: Ensemble, params: SamplingParams) -> Plan:
    setting = Setting(
        combination=ensemble.combination,
        members=ensemble.member_names,
        drafters=ensemble.drafter_names,
        params=params,
    )
    return next(plan for plan in plans(setting, ensemble.plan.verification) if str(plan) == name)


def _acceptances(ensemble: Ensemble, planner: Auto) -> dict[str, float]:
    """1 - TV of each proposer with r and with each member, by name."""
    names = [*ensemble.names]
    return {
        f"{names[proposer]} for {'r' if target is None else names[target]}": average.value
        for (proposer, target), average in sorted(planner.beliefs.acceptances.items(), key=str)
    }

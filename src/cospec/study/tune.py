"""Let `auto` measure on the user's prompts until its choice is steady, and compare its prediction with the clock."""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ..core.params import SamplingParams
from ..ensemble import Ensemble, Prompt
from ..errors import InvalidEnsemble, InvalidPrompt
from ..files import PLAN_SETTINGS, plan_settings
from ..inputs import read_text
from ..schedule import Plan, plans
from ..schedule.auto import Auto
from ..storage import keep
from .timing import until_steady

# The choice is steady once so many prompts in a row have ended with it.
NUM_STEADY = 5
MOST_TEXTS = 60
# Prompts that the chosen plan and `plain` are timed on.
NUM_TIMED = 8


@dataclass(frozen=True)
class PlanSpeed:
    """One plan: tokens a second of one sequence, as predicted and as measured."""

    plan: Plan
    predicted: float
    measured: float


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The chosen plan, its speed beside that of `plain`, which comes first, and what was measured on the way.

    drafters: who drafts for each member, in their order, where they have drafters of their own. acceptances: by names
    of proposer and target. num_texts: prompts that were decoded before the choice was steady.
    """

    plan: Plan
    drafters: tuple[str, ...]
    comparisons: tuple[PlanSpeed, ...]
    acceptances: dict[str, float]
    num_texts: int

    def to_dict(self) -> dict[str, object]:
        """All of it, ready for JSON."""
        return asdict(self)


def tune(
    ensemble: Ensemble, prompts: Sequence[Prompt], params: SamplingParams, on_text: Callable[[str], None]
) -> Tuning:
    """Decode prompt after prompt until the choice is steady, then time it and `plain`.

    on_text: called after each with the plan then chosen. Raises InvalidPrompt where there is no prompt, or where the
    sequences are too short for anything to be measured.
    """
    if not prompts:
        raise InvalidPrompt("there is nothing to tune on; give at least one prompt")
    params = replace(params, seed=None)
    learner = ensemble.with_plan(schedule="auto", gamma=None, proposer=None, first=None)
    planner = learner.planner_for(params)
    assert planner is not None
    decoded = (learner.generate([prompt], params) for prompt in itertools.islice(itertools.cycle(prompts), MOST_TEXTS))
    num_texts = 0
    for choice in until_steady(planner, decoded, NUM_STEADY):
        num_texts += 1
        on_text(choice)
    if not planner.chosen:
        raise InvalidPrompt(
            f"{num_texts} texts of at most {params.max_tokens} tokens ended before a plan could be timed; "
            "give longer texts (--max-tokens) or other prompts"
        )
    predicted = planner.predict()
    chosen = _plan_named(planner.chosen, learner, params)
    plain = replace(chosen, schedule="plain", gamma=None, proposer=None, first=None)
    compared = [plain] if chosen == plain else [plain, chosen]
    speeds = _tokens_per_second([learner.with_plan(plan) for plan in compared], prompts[:NUM_TIMED], params)
    return Tuning(
        plan=chosen,
        drafters=_drafters(planner, learner.names),
        comparisons=tuple(
            PlanSpeed(plan, predicted[str(plan)], speed) for plan, speed in zip(compared, speeds, strict=True)
        ),
        acceptances={
            f"{learner.names[proposer]} for {'r' if target is None else learner.names[target]}": average.value
            for (proposer, target), average in sorted(planner.beliefs.acceptances.items(), key=str)
        },
        num_texts=num_texts,
    )


def _tokens_per_second(ensembles: list[Ensemble], prompts: Sequence[Prompt], params: SamplingParams) -> list[float]:
    """Of each ensemble, interleaved over the prompts."""
    tokens, seconds = [0] * len(ensembles), [0.0] * len(ensembles)
    for prompt in prompts:
        for index, ensemble in enumerate(ensembles):
            started = time.perf_counter()
            (result,) = ensemble.generate([prompt], params)
            seconds[index] += time.perf_counter() - started
            tokens[index] += result.completion_tokens
    return [count / max(spent, 1e-9) for count, spent in zip(tokens, seconds, strict=True)]


def _plan_named(name: str, ensemble: Ensemble, params: SamplingParams) -> Plan:
    weighed = plans(ensemble.setting(params), ensemble.plan.verification)
    return next(plan for plan in weighed if str(plan) == name)


def _drafters(planner: Auto, names: Sequence[str]) -> tuple[str, ...]:
    """The drafter of each member under the chosen plan, one name where it is the same for all; empty where the plan
    assigns none."""
    own = tuple(names[lane] for lane in planner.plans[planner.chosen or ""].drafter_of_each)
    return own if len(set(own)) > 1 else own[:1]


def write_plan(tuning: Tuning, source: Path, out: Path, drafters: Mapping[str, str]) -> None:
    """Write the ensemble file `source` with the chosen plan to `out`; lines that set no plan stay as they are.

    drafters: name -> model, as the file is to name it. Raises InvalidEnsemble where a setting to be replaced stands on
    several lines, CospecError where `out` cannot be written.
    """
    lines = []
    for line, following in itertools.pairwise([*read_text(source, InvalidEnsemble).splitlines(), ""]):
        if not line.startswith(tuple(f"{name}:" for name in PLAN_SETTINGS)):
            lines.append(line)
        elif following.startswith((" ", "-")):
            raise InvalidEnsemble(f"{source}: {line!r} goes on in the next line; write it on one line to be replaced")
    proposers = tuning.drafters or ([tuning.plan.proposer] if tuning.plan.proposer else [])
    plan = plan_settings(tuning.plan, [drafters.get(name, name) for name in proposers])
    keep(out, "\n".join([*lines, *(_line(name, value) for name, value in plan.items())]) + "\n")


def _line(name: str, value: Any) -> str:
    """A setting on one line, so that it can be replaced later: lists in brackets, and no braces around it all."""
    flow = None if isinstance(value, list) else False
    return yaml.safe_dump({name: value}, allow_unicode=True, default_flow_style=flow, width=math.inf).rstrip("\n")

"""Let `auto` measure on the user's prompts until its choice is steady, and compare its prediction with the clock."""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from ..core.events import Result
from ..core.params import SamplingParams
from ..ensemble import Ensemble, Prompt
from ..errors import CospecError, InvalidEnsemble, InvalidPrompt
from ..files import PLAN_SETTINGS, plan_settings
from ..inputs import parse_yaml, read_text
from ..resume import check_settings
from ..schedule import Plan, plans
from ..schedule.auto import Auto
from ..storage import keep, to_json
from .steadiness import Steadiness, load_a_core, spread_of
from .timing import until_steady

# The choice is steady once so many prompts in a row have ended with it.
NUM_STEADY = 5
MOST_TEXTS = 60
# Prompts that the chosen plan and `plain` are timed on, and how often at most: again where the machine was disturbed.
NUM_TIMED, MOST_ROUNDS = 8, 3


@dataclass(frozen=True)
class PlanSpeed:
    """One plan: tokens a second of one sequence, as predicted and as measured."""

    plan: Plan
    predicted: float
    measured: float


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The plan to run, the chosen one's speed beside that of `plain`, which comes first, and what was measured on the
    way.

    plan: `plain` where the chosen one was measured to be slower, which is then `slower`. drafters: who drafts for each
    member, in their order, where they have drafters of their own. acceptances: by names of proposer and target.
    num_texts: prompts that were decoded before the choice was steady. num_rounds: how often the two were timed.
    """

    plan: Plan
    drafters: tuple[str, ...]
    comparisons: tuple[PlanSpeed, ...]
    acceptances: dict[str, float]
    num_texts: int
    slower: Plan | None = None
    num_rounds: int = 1
    steadiness: Steadiness = field(default_factory=Steadiness)

    def to_dict(self) -> dict[str, object]:
        """All of it, ready for JSON."""
        return {**asdict(self), "disturbance": self.steadiness.disturbance}


@dataclass(kw_only=True)
class TuneProgress:
    """What was measured so far, in a file that a later run goes on with.

    settings: what it depends on. choices: the plan chosen after each text. is_steady: whether they are over. planner:
    what `auto` knows. timed: of each prompt that was timed, round after round: tokens and seconds of each plan.
    """

    settings: dict[str, Any]
    choices: list[str] = field(default_factory=list)
    is_steady: bool = False
    planner: dict[str, Any] = field(default_factory=dict)
    timed: list[list[tuple[int, float]]] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path, settings: Mapping[str, Any]) -> "TuneProgress":
        """That of an earlier run with these settings, or none where there is no file. Raises CospecError otherwise."""
        if not path.exists():
            return cls(settings=dict(settings))
        try:
            made = TypeAdapter(cls).validate_json(path.read_bytes(), extra="forbid")
        except (OSError, ValidationError):
            raise _holds_none(str(path)) from None
        remedy = "Give the same settings to go on, or remove the file to measure anew"
        check_settings(f"{path}, which holds what was measured before,", made.settings, settings, remedy)
        return made

    def save(self, path: Path) -> None:
        """Whole or not at all. Raises CospecError where it cannot be written."""
        keep(path, to_json(asdict(self)))


def _holds_none(where: str) -> CospecError:
    return CospecError(f"{where} holds no measurements of cospec tune; remove it")


def tune(
    ensemble: Ensemble,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    on_text: Callable[[str], None],
    progress: TuneProgress | None = None,
    on_progress: Callable[[TuneProgress], None] = lambda progress: None,
    *,
    where: str = "the progress",
) -> Tuning:
    """Decode prompt after prompt until the choice is steady, then time it and `plain`.

    on_text: called after each with the plan then chosen. progress: of an earlier run, which goes on from there.
    on_progress: called after each text and each prompt that was timed. where: names the progress in messages. Raises
    InvalidPrompt where there is no prompt, or where the sequences are too short for anything to be measured, and
    CospecError for progress that this ensemble's planner cannot have made.
    """
    if not prompts:
        raise InvalidPrompt("there is nothing to tune on; give at least one prompt")
    progress = progress or TuneProgress(settings={})
    params = replace(params, seed=None)
    learner = ensemble.with_plan(schedule="auto", gamma=None, proposer=None, first=None)
    planner = learner.planner_for(params)
    assert planner is not None
    if progress.planner:
        try:
            planner.restore(progress.planner)
        except (LookupError, TypeError, ValueError, AttributeError):
            raise _holds_none(where) from None
    todo = itertools.islice(itertools.cycle(prompts), len(progress.choices), MOST_TEXTS)
    lengths: list[int] = []
    decoded = (_decoded(learner, prompt, params, lengths) for prompt in (() if progress.is_steady else todo))
    for choice in until_steady(planner, decoded, NUM_STEADY):
        progress.choices.append(choice)
        progress.planner = planner.state()
        on_progress(progress)
        on_text(choice)
    progress.is_steady = bool(planner.chosen)
    num_texts = len(progress.choices)
    # In texts of one token no plan differs from another.
    if not planner.chosen or max(lengths, default=2) < 2:
        raise InvalidPrompt(
            f"{num_texts} texts of at most {params.max_tokens} tokens ended before a plan could be timed; "
            "give longer texts (--max-tokens) or other prompts"
        )
    predicted = planner.predict()
    chosen = _plan_named(planner.chosen, learner, params)
    plain = replace(chosen, schedule="plain", gamma=None, proposer=None, first=None)
    compared = [plain] if chosen == plain else [plain, chosen]
    ensembles = [learner.with_plan(plan) for plan in compared]
    texts = prompts[:NUM_TIMED]
    while len(progress.timed) < MOST_ROUNDS * len(texts):
        number = len(progress.timed)
        if number and number % len(texts) == 0:
            found = _comparisons(compared, predicted, progress.timed, len(texts))
            if not _is_doubtful(found, _steadiness(found, progress.timed, len(texts))):
                break
        progress.timed.append([_timed(each, texts[number % len(texts)], params) for each in ensembles])
        on_progress(progress)
    comparisons = _comparisons(compared, predicted, progress.timed, len(texts))
    is_slower = comparisons[-1].measured < comparisons[0].measured
    return Tuning(
        plan=plain if is_slower else chosen,
        drafters=() if is_slower else _drafters(planner, learner.names),
        comparisons=comparisons,
        slower=chosen if is_slower else None,
        num_rounds=len(progress.timed) // len(texts),
        steadiness=_steadiness(comparisons, progress.timed, len(texts)),
        acceptances={
            f"{learner.names[proposer]} for {'r' if target is None else learner.names[target]}": average.value
            for (proposer, target), average in sorted(planner.beliefs.acceptances.items(), key=str)
        },
        num_texts=num_texts,
    )


# Of each prompt that was timed, round after round: tokens and seconds of each plan.
Timed = Sequence[Sequence[tuple[int, float]]]


def _comparisons(
    compared: Sequence[Plan], predicted: Mapping[str, float], timed: Timed, num_texts: int
) -> tuple[PlanSpeed, ...]:
    """Of a prompt that was timed several times the fastest run counts: whatever else runs on a machine only slows."""
    found = []
    for column, plan in enumerate(compared):
        runs = [[row[column] for row in timed[text::num_texts]] for text in range(num_texts)]
        fastest = [min(each, key=lambda run: run[1] / max(run[0], 1)) for each in runs]
        tokens, seconds = (sum(values) for values in zip(*fastest, strict=True))
        found.append(PlanSpeed(plan, predicted[str(plan)], tokens / max(seconds, 1e-9)))
    return tuple(found)


def _steadiness(comparisons: Sequence[PlanSpeed], timed: Timed, num_texts: int) -> Steadiness:
    """By the runs of `plain`, whose tokens take as long in any text."""
    seconds = [row[0][1] / max(row[0][0], 1) for row in timed]
    runs: dict[object, list[float]] = {text: seconds[text::num_texts] for text in range(num_texts)}
    return Steadiness(
        spread=spread_of(runs),
        off={str(each.plan): each.predicted / each.measured for each in comparisons if each.measured},
        load=load_a_core(),
    )


def _is_doubtful(comparisons: Sequence[PlanSpeed], steadiness: Steadiness) -> bool:
    """Whether it must be timed again: the machine was disturbed, or what was predicted to be fastest was not."""
    return steadiness.disturbance is not None or comparisons[-1].measured < comparisons[0].measured


def _timed(ensemble: Ensemble, prompt: Prompt, params: SamplingParams) -> tuple[int, float]:
    """The tokens of one text, and the seconds that it took."""
    started = time.perf_counter()
    (result,) = ensemble.generate([prompt], params)
    return result.completion_tokens, time.perf_counter() - started


def _decoded(learner: Ensemble, prompt: Prompt, params: SamplingParams, lengths: list[int]) -> list[Result]:
    """The prompt's results, whose lengths in tokens are added to those so far."""
    results = learner.generate([prompt], params)
    lengths.extend(result.completion_tokens for result in results)
    return results


def _plan_named(name: str, ensemble: Ensemble, params: SamplingParams) -> Plan:
    weighed = plans(ensemble.setting(params), ensemble.plan.verification)
    return next(plan for plan in weighed if str(plan) == name)


def _drafters(planner: Auto, names: Sequence[str]) -> tuple[str, ...]:
    """The drafter of each member under the chosen plan, one name where it is the same for all; empty where the plan
    assigns none."""
    own = tuple(names[lane] for lane in planner.plans[planner.chosen or ""].drafter_of_each)
    return own if len(set(own)) > 1 else own[:1]


def write_plan(tuning: Tuning, source: Path, out: Path, drafters: Mapping[str, str | dict[str, Any]]) -> None:
    """Write the ensemble file `source` with the chosen plan to `out`; lines that set no plan stay as they are.

    drafters: name -> model or settings, as the file is to have it. Raises as `other_lines` does, and CospecError where
    `out` cannot be written.
    """
    proposers = tuning.drafters or ([tuning.plan.proposer] if tuning.plan.proposer else [])
    plan = plan_settings(tuning.plan, [drafters.get(name, name) for name in proposers])
    keep(out, "\n".join([*other_lines(source), *(_line(name, value) for name, value in plan.items())]) + "\n")


def other_lines(source: Path) -> list[str]:
    """The lines of an ensemble file that set no plan. Raises InvalidEnsemble where they and a plan behind them are not
    the file with another plan, as where a setting to be replaced stands on several lines."""
    text = read_text(source, InvalidEnsemble)
    settings = parse_yaml(text, str(source), InvalidEnsemble)
    # YAML has other line breaks in texts than str.splitlines.
    lines = text.removesuffix("\n").split("\n")
    kept = [line for line in lines if not line.startswith(tuple(f"{name}:" for name in PLAN_SETTINGS))]
    plan = dict.fromkeys(PLAN_SETTINGS, "auto")
    try:
        written = parse_yaml("\n".join([*kept, *itertools.starmap(_line, plan.items())]), "", InvalidEnsemble)
    except InvalidEnsemble:
        written = None
    if not isinstance(settings, Mapping) or written != {**settings, **plan}:
        raise InvalidEnsemble(
            f"{source}: its plan cannot be replaced line by line; write each of {', '.join(PLAN_SETTINGS)} that it has "
            "on one line of its own, such as `schedule: auto`, with no braces around all and no `...` at the end"
        )
    return kept


def _line(name: str, value: Any) -> str:
    """A setting on one line, so that it can be replaced later: what it holds in brackets, and no braces around all."""
    flow = None if isinstance(value, list | dict) else False
    return yaml.safe_dump({name: value}, allow_unicode=True, default_flow_style=flow, width=math.inf).rstrip("\n")

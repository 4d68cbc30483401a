"""What is on trial: methods, as ensembles under their plans, and the batches of prompts that each decodes."""

import random
from collections.abc import Sequence as Values
from dataclasses import dataclass, replace

from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..errors import CospecError, InvalidPilot, InvalidPrompt, InvalidSchedule
from ..schedule import Plan
from .intervals import FEWEST_UNITS
from .questions import Question
from .results import OURS, PLAIN, SINGLE

# Batches where several texts are decoded at once, as far as there are prompts for them.
FEWEST_BATCHES = FEWEST_UNITS + 2


@dataclass(frozen=True)
class Trial:
    """A method: its name in the results, and the ensemble that decodes by it."""

    name: str
    ensemble: Ensemble

    @property
    def is_single(self) -> bool:
        return self.name.startswith(SINGLE)


@dataclass(frozen=True)
class Batch:
    """Prompts of one category that are decoded at once, by their indices."""

    number: int
    category: str
    prompts: tuple[int, ...]


def ours(ensemble: Ensemble) -> str:
    """The method on trial: `auto`, unless the ensemble's own plan is fixed to another."""
    return OURS if ensemble.plan.schedule in (PLAIN, OURS) else str(ensemble.plan)


def trials(ensemble: Ensemble, params: SamplingParams) -> list[Trial]:
    """Each single member, plain, alternate, auto, and the ensemble's own plan; those that this sampling allows.

    Raises InvalidSchedule if the ensemble's own plan is not.
    """
    own = ensemble.plan
    plans = {PLAIN: Plan(schedule="plain"), "alternate": Plan(schedule="alternate", gamma=1), OURS: Plan()}
    if ours(ensemble) not in plans:
        plans[ours(ensemble)] = own
    singles = [Trial(SINGLE + name, ensemble.alone(name)) for name in ensemble.member_names]
    found = []
    for name, plan in plans.items():
        try:
            planned = ensemble.with_plan(replace(plan, verification=own.verification))
            planned.schedule_for(params)
        except InvalidSchedule:
            if name == ours(ensemble):
                raise
        else:
            found.append(Trial(name, planned))
    return singles + found


def batches(questions: Values[Question], timed: Values[int], concurrency: int) -> list[Batch]:
    """What is decoded at this concurrency: each timed prompt alone, or full batches of each category.

    Several at once are taken from all prompts of a category, the timed ones first. No prompt is in two batches, which
    would say the same twice; in one it stands twice only where its category has too few to fill it.
    """
    if concurrency == 1:
        return [Batch(number, questions[i].category, (i,)) for number, i in enumerate(timed)]
    categories = dict.fromkeys(question.category for question in questions)
    filled = {category: _filled(_in_turn(questions, timed, category), concurrency) for category in categories}
    num = max(FEWEST_BATCHES, len(categories), -(-len(timed) // concurrency))
    # As many of each category as goes.
    turns = range(max(map(len, filled.values())))
    found = [(category, own[turn]) for turn in turns for category, own in filled.items() if turn < len(own)]
    return [Batch(number, category, prompts) for number, (category, prompts) in enumerate(found[:num])]


def _in_turn(questions: Values[Question], timed: Values[int], category: str) -> list[int]:
    """The category's prompts, the timed ones first, in no order of their own."""
    own = [i for i, question in enumerate(questions) if question.category == category]
    first = [i for i in own if i in timed]
    random.Random(0).shuffle(first)
    return first + [i for i in own if i not in timed]


def _filled(prompts: Values[int], size: int) -> list[tuple[int, ...]]:
    """Whole batches; one, filled up from its beginning, where there are too few for any."""
    if len(prompts) < size:
        return [tuple(prompts[k % len(prompts)] for k in range(size))]
    return [tuple(prompts[start : start + size]) for start in range(0, len(prompts) - size + 1, size)]


def check_prompts(ensemble: Ensemble, questions: Values[Question]) -> None:
    """Raises InvalidPrompt, with file and line, for one that some member has no room for, its continuation included."""
    engine, params = ensemble.engine(), SamplingParams()
    for question in questions:
        try:
            engine.check(ensemble.request(question.prompt + (question.continuation or ""), params))
        except CospecError as error:
            what = ", with its continuation" if question.continuation else ""
            raise InvalidPrompt(f"{question.where}{what}: {error}") from None


def check_concurrencies(ensemble: Ensemble, concurrencies: Values[int]) -> None:
    """Raises InvalidPilot for more texts at once than the ensemble takes."""
    most = max(concurrencies)
    if most > ensemble.max_sequences:
        raise InvalidPilot(
            f"--concurrency {most} is more than the {ensemble.max_sequences} texts that the ensemble decodes at once; "
            f"put `max_sequences: {most}` into its file"
        )

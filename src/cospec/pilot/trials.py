"""What is on trial: methods, as ensembles under their plans, and the batches of prompts that each decodes."""

import random
from collections.abc import Sequence as Values
from dataclasses import dataclass, replace

from ..bench.intervals import FEWEST_UNITS
from ..ensemble import Ensemble
from ..errors import InvalidPilot, InvalidSchedule
from ..sampling import SamplingParams
from ..schedule import Plan
from .questions import Question
from .results import OURS, PLAIN, SINGLE

# Batches of each category where several texts are decoded at once, and of all together.
FEWEST_BATCHES, FEWEST_IN_ALL = 2, FEWEST_UNITS + 2


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

    Several at once are taken from all prompts of a category, the timed ones first; one is taken twice only where there
    are too few.
    """
    if concurrency == 1:
        return [Batch(number, questions[i].category, (i,)) for number, i in enumerate(timed)]
    found: list[Batch] = []
    categories = list(dict.fromkeys(question.category for question in questions))
    for category in categories:
        own = [i for i in timed if questions[i].category == category]
        own += [i for i, question in enumerate(questions) if question.category == category and i not in own]
        first = own[: sum(questions[i].category == category for i in timed)]
        random.Random(0).shuffle(first)
        own[: len(first)] = first
        num = max(FEWEST_BATCHES, -(-len(first) // concurrency), -(-FEWEST_IN_ALL // len(categories)))
        for start in range(0, num * concurrency, concurrency):
            picked = tuple(own[(start + k) % len(own)] for k in range(concurrency))
            found.append(Batch(len(found), category, picked))
    return found


def check_concurrencies(ensemble: Ensemble, concurrencies: Values[int]) -> None:
    """Raises InvalidPilot for more texts at once than the ensemble takes."""
    most = max(concurrencies)
    if most > ensemble.max_sequences:
        raise InvalidPilot(
            f"--concurrency {most} is more than the {ensemble.max_sequences} texts that the ensemble decodes at once; "
            f"put `max_sequences: {most}` into its file"
        )

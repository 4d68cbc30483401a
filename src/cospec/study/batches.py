"""Batches: the prompts that each method of a study decodes at once."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from .intervals import FEWEST_UNITS
from .questions import Question

# Batches of several prompts to aim at, so that there is an interval with some to spare.
FEWEST_BATCHES = FEWEST_UNITS + 2


@dataclass(frozen=True)
class Batch:
    """Prompts of one category that are decoded at once. prompts: their indices among the study's prompts."""

    number: int
    category: str
    prompts: tuple[int, ...]


def batches(questions: Sequence[Question], timed: Sequence[int], concurrency: int) -> list[Batch]:
    """The batches of a pilot: each timed prompt alone, or so many of one category at once.

    questions: all prompts. timed: indices of those that are timed alone. Batches of several are drawn from all prompts
    of a category, the timed ones first. Batches are independent units, so no prompt is in two of them; it stands twice
    in one only where its category has too few prompts to fill it.
    """
    if concurrency == 1:
        return [Batch(number, questions[i].category, (i,)) for number, i in enumerate(timed)]
    categories = dict.fromkeys(question.category for question in questions)
    full = {category: _full_batches(_shuffled(questions, timed, category), concurrency) for category in categories}
    num = max(FEWEST_BATCHES, len(categories), -(-len(timed) // concurrency))
    turns = range(max(map(len, full.values())))
    # Categories take turns, so that each has about as many batches as any other.
    in_turn = [(category, own[turn]) for turn in turns for category, own in full.items() if turn < len(own)]
    return [Batch(number, category, prompts) for number, (category, prompts) in enumerate(in_turn[:num])]


def _shuffled(questions: Sequence[Question], timed: Sequence[int], category: str) -> list[int]:
    """The category's prompts, first the timed ones in a random but fixed order, then the others."""
    own = [i for i, question in enumerate(questions) if question.category == category]
    first = [i for i in own if i in timed]
    random.Random(0).shuffle(first)
    return first + [i for i in own if i not in timed]


def _full_batches(prompts: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """All batches of this size; a single one that repeats its prompts where there are too few for any."""
    if len(prompts) < size:
        return [tuple(prompts[k % len(prompts)] for k in range(size))]
    return [tuple(prompts[start : start + size]) for start in range(0, len(prompts) - size + 1, size)]

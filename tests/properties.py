"""How property tests are tried: by the same examples on each run, so that none fails by luck; by `make fuzz` with new
ones, and more of them. Laws that cross many things are proved for each pair of them; by `make fuzz` for all at once."""

import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

Test = TypeVar("Test", bound=Callable[..., None])
Combination = tuple[Hashable, ...]

SAME, FUZZ = "same", "fuzz"
# Examples of a test that does not say, and how many times as many `make fuzz` tries of one that does.
NUM_EXAMPLES, MORE = 40, 10
# A machine that others use makes any example slow.
TIMELESS = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}


def register() -> None:
    settings.register_profile(SAME, derandomize=True, max_examples=NUM_EXAMPLES, **TIMELESS)
    settings.register_profile(FUZZ, max_examples=MORE * settings.default.max_examples, **TIMELESS)
    settings.load_profile(SAME)


def examples(count: int) -> int:
    """So many of a test that needs another number than the default; more of them by `make fuzz`."""
    return count * MORE if is_fuzzing() else count


def longer(count: int, by_fuzz: int) -> int:
    """The size of something whose law is proved as well where it is small, but in much less time."""
    return by_fuzz if is_fuzzing() else count


def is_fuzzing() -> bool:
    return settings.get_current_profile_name() == FUZZ


def crossed(names: str, *axes: Iterable[Hashable]) -> Callable[[Test], Test]:
    """Parametrise by so many combinations of the axes that each value of one meets each of every other; by `make fuzz`
    by all combinations. names: of the axes, with commas."""
    combinations = [*itertools.product(*axes)]
    wanted = combinations if is_fuzzing() else _pairwise(combinations)
    parametrised = pytest.mark.parametrize(names, wanted)
    return lambda test: pytest.mark.larger(parametrised(test))


def _pairwise(combinations: Sequence[Combination]) -> list[Combination]:
    """Of these, one after the other that which has the most pairs of values that none before it has, of those the one
    whose pairs are the rarest so far, until none is left out."""
    pairs_of = {each: [*itertools.combinations(enumerate(each), 2)] for each in combinations}
    met: Counter[object] = Counter()

    def worth(each: Combination) -> tuple[int, int]:
        counts = [met[pair] for pair in pairs_of[each]]
        return counts.count(0), -sum(counts)

    chosen = []
    while pairs_of and worth(best := max(pairs_of, key=worth))[0]:
        met.update(pairs_of.pop(best))
        chosen.append(best)
    return chosen

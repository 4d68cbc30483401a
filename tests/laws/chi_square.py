"""Whether counts may come from a law."""

from collections import Counter
from collections.abc import Hashable, Mapping

import torch

# Fewer expected draws than this in a cell give false alarms: such cells are pooled.
FEWEST_EXPECTED = 5
# What all the tests together may raise a false alarm with, over more tests than there are.
FALSE_ALARM = 1e-3 / 100


def p_value(counts: Mapping[Hashable, int], law: Mapping[Hashable, float]) -> float:
    """Of Pearson's test. Zero if something was drawn that cannot be."""
    total = sum(counts.values())
    if any(law.get(outcome, 0.0) <= 0 for outcome in counts):
        return 0.0
    expected, observed = 0.0, 0
    cells = []
    # From the likeliest down, by the law alone: an order that looked at the counts would sort the chance into cells.
    for outcome in sorted(law, key=law.__getitem__, reverse=True):
        expected, observed = expected + total * law[outcome], observed + counts.get(outcome, 0)
        if expected >= FEWEST_EXPECTED:
            cells.append((expected, observed))
            expected, observed = 0.0, 0
    # What is left over joins the last cell.
    cells[-1] = (cells[-1][0] + expected, cells[-1][1] + observed)
    statistic = sum((seen - due) ** 2 / due for due, seen in cells)
    degrees = len(cells) - 1
    assert degrees > 0, "too few draws to tell anything"
    return float(torch.special.gammaincc(torch.tensor(degrees / 2.0).double(), torch.tensor(statistic / 2).double()))


def is_from(law: Mapping[Hashable, float], outcomes: list[Hashable]) -> bool:
    return p_value(Counter(outcomes), law) > FALSE_ALARM

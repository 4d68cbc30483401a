"""The tokens that a drafter proposes among: those that the ensemble writes most often."""

from collections.abc import Sequence

import torch

from ..errors import InvalidDistillation
from .texts import WrittenText


def frequent_tokens(texts: Sequence[WrittenText], count: int, num_entries: int, end_ids: Sequence[int]) -> list[int]:
    """The `count` tokens that are expected most often under r at the texts' positions, ends among them; of equally
    frequent ones the lower ids. num_entries: of the whole vocabulary.

    The sum of r's probabilities says more of rare tokens than how often they were drawn.
    Raises InvalidDistillation for more tokens than there are, or too few for the ends and one more.
    """
    if not len(end_ids) < count <= num_entries:
        raise InvalidDistillation(
            f"--vocabulary {count} is not possible: the ensemble's has {num_entries} entries, {len(end_ids)} of them "
            f"ends, which a drafter must know; give a number from {len(end_ids) + 1} to {num_entries}"
        )
    expected = torch.zeros(num_entries)
    for text in texts:
        expected.index_add_(0, text.kept.flatten(), text.probs.flatten())
    expected[[*end_ids]] = torch.inf
    best: list[int] = expected.sort(descending=True, stable=True).indices[:count].tolist()
    return sorted(best)

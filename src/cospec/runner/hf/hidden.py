"""Hidden states that a forward pass hands out beside its logits, for drafters that read them."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class HiddenRows:
    """What the output embedding reads in one pass, of more tokens than logits are wanted of where that is so.

    counts: of how many last tokens of each row, no fewer than its logits. states: [sum of counts, hidden], in the order
    of logits; the pass sets them.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = counts
        self.states: Tensor | None = None

    def take(self, states: Tensor) -> None:
        """Keep a copy of the pass's: what it computes them in is larger, or used again."""
        self.states = states[: sum(self.counts)].clone()

    def chosen(self, rows: Tensor, num_logits: Sequence[int]) -> Tensor:
        """Of rows [sum of counts, ...] those whose logits are wanted."""
        if [*self.counts] == [*num_logits]:
            return rows
        ends = accumulate(self.counts)
        return torch.cat([rows[end - num : end] for end, num in zip(ends, num_logits, strict=True)])


def counts_of(num_logits: Sequence[int], handed: HiddenRows | None) -> Sequence[int]:
    """Of how many last tokens of each row a pass computes the last layer."""
    return num_logits if handed is None else handed.counts


def output_embedding(model: PreTrainedModel) -> nn.Module | None:
    """The module whose input is handed out; None for a model that says none."""
    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head

"""A drafting head: a small recurrent module that begins with the members' last hidden states and proposes tokens.

As in Hydra (Ankner et al. 2024) and EAGLE (Li et al. 2024) it reads what the members' output embedding reads, at the
last position that they were fed, and then the embeddings of the tokens behind that, one by one.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """members: whose hidden states it reads, each of size `hidden`, which is its own state's and the embeddings' too.
    width: of the layer between two states. vocabulary: how many tokens it proposes among."""

    members: int
    hidden: int
    width: int
    vocabulary: int


class DraftHead(nn.Module):
    """q of the tokens behind a position, of which the members' hidden states are known.

    `begin` reads the hidden states at the token that members were fed last. `advance` reads a token behind it, and
    `logits` are those of the token behind that one. All of it is computed in the parameters' type.
    """

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.shape = shape
        size, width = shape.hidden, shape.width
        self.start = nn.Linear(shape.members * size, size)
        self.token = nn.Linear(size, 2 * width, bias=False)
        self.state = nn.Linear(size, 2 * width)
        self.out = nn.Linear(width, size)
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, shape.vocabulary, bias=False)

    def begin(self, hidden: Tensor) -> Tensor:
        """[n, members, hidden], of which each is behind its member's final norm -> state [n, hidden]."""
        started: Tensor = self.start(_scaled(hidden).flatten(1))
        return started

    def advance(self, state: Tensor, embedded: Tensor) -> Tensor:
        """The state behind a token. state: [n, hidden]. embedded: [n, hidden], the token's input embedding."""
        state = _scaled(state)
        gate, value = (self.token(_scaled(embedded)) + self.state(state)).chunk(2, dim=-1)
        moved: Tensor = self.norm(state + self.out(F.silu(gate) * value))
        return moved

    def logits(self, state: Tensor) -> Tensor:
        """[n, hidden] -> [n, vocabulary], in the order of its ids."""
        logits: Tensor = self.head(state)
        return logits


def _scaled(rows: Tensor) -> Tensor:
    """Of mean square 1: a model's embeddings may be a hundred times smaller than its hidden states."""
    return F.rms_norm(rows, rows.shape[-1:])

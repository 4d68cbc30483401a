"""A drafting head: a small recurrent cell that begins with members' hidden states and proposes token by token.

It reads what the members' last layers made of the text (of one model: Medusa, Cai et al. 2024; EAGLE, Li et al. 2024),
and its own tokens one after the other (Hydra, Ankner et al. 2024).
"""

import torch.nn.functional as F
from torch import Tensor, nn


class DraftHead(nn.Module):
    """state_0 = in(h), state_k = norm(state_{k-1} + out(silu(tok(E[x_k]) + rec(state_{k-1})))), logits = head(state_k).

    members: whose hidden states stand side by side in h. hidden: numbers of each, and of an embedding. width: of the
    cell. num_tokens: that it proposes among.
    """

    def __init__(self, *, members: int, hidden: int, width: int, num_tokens: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(members * hidden, hidden)
        self.tok = nn.Linear(hidden, width)
        self.rec = nn.Linear(hidden, width, bias=False)
        self.out = nn.Linear(width, hidden, bias=False)
        self.norm = nn.RMSNorm(hidden, eps=1e-5)
        self.head = nn.Linear(hidden, num_tokens, bias=False)

    def begin(self, hidden: Tensor) -> Tensor:
        """[..., members * hidden] -> state_0 [..., hidden]."""
        state: Tensor = self.inputs(hidden)
        return state

    def step(self, state: Tensor, embedded: Tensor) -> Tensor:
        """The state behind a token, whose embedding is [..., hidden]."""
        added: Tensor = self.out(F.silu(self.tok(embedded) + self.rec(state)))
        normed: Tensor = self.norm(state + added)
        return normed

    def logits(self, state: Tensor) -> Tensor:
        """[..., num_tokens], of the token behind the state's last one."""
        rows: Tensor = self.head(state)
        return rows

"""A drafting head that learns: it begins with members' hidden states, and reads the tokens behind them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..runner.hf.cut import output_rows
from ..runner.hf.head import DraftHead, HeadShape
from ..runner.hf.runner import HfRunner
from ..runner.hf.trainable import Trained, keep_weights
from ..runner.parts import HEAD_WEIGHTS
from .loss import backward
from .recipe import HeadRecipe
from .texts import WrittenText

# Tokens that are proposed from one position in training, and the weight of each beside that of the one before it: one
# further on is proposed only where those before it were accepted.
STEPS, DECAY = 3, 0.5
# Of the weights that begin a state, as they are drawn, beside those that take the members' mean.
STRAY = 0.3


class HeadPupil(Trained):
    """A drafting head in training. embed: token ids -> the base's input embeddings. vocabulary: of its columns.

    num_entries: of the ensemble's vocabulary.
    """

    # Of a few units at most.
    stored = torch.float16
    is_whole = False

    def __init__(
        self, head: DraftHead, embed: Callable[[Tensor], Tensor], vocabulary: Sequence[int], num_entries: int
    ) -> None:
        self.head = head
        self.vocabulary = tuple(vocabulary)
        # Output rows of its own, trained, gained nothing, and would be most of the file.
        head.head.requires_grad_(False)
        self.trained = {name: each for name, each in head.named_parameters() if each.requires_grad}
        self._embed = embed
        self._columns = torch.full((num_entries,), -1)
        self._columns[torch.tensor(self.vocabulary)] = torch.arange(len(self.vocabulary))

    @classmethod
    def of(
        cls, base: HfRunner, recipe: HeadRecipe, vocabulary: Sequence[int], hidden: Tensor, num_entries: int
    ) -> "HeadPupil":
        """An untrained one, whose output rows are the base's. hidden: [n, members, size], what it will read, of which
        its own states take the size.

        Raises UnsupportedModel for a base whose output embedding is no linear layer.
        """
        rows = output_rows(base.model, vocabulary).detach().to("cpu", torch.float32)
        num_members, size = hidden.shape[1:]
        shape = HeadShape(members=num_members, hidden=size, width=recipe.width, vocabulary=len(vocabulary))
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(recipe.seed)
            head = DraftHead(shape)
        with torch.no_grad():
            head.head.weight.copy_(rows)
            head.norm.weight.fill_(hidden.float().std())
            # The members' mean, and a little of what torch draws.
            head.start.weight.mul_(STRAY).add_(torch.eye(size).repeat(1, num_members) / num_members)
            head.start.bias.zero_()
        embedding = base.model.get_input_embeddings()

        @torch.no_grad()
        def embed(ids: Tensor) -> Tensor:
            found: Tensor = embedding(ids.to(base.device))
            return found.to("cpu", torch.float32, copy=True)

        return cls(head, embed, vocabulary, num_entries)

    @property
    def parameters(self) -> Trained:
        return self

    def learn(self, texts: Sequence[WrittenText], progress: float) -> tuple[float, float]:
        """The tokens of each position are those of the text, as they are where drafts are accepted."""
        tokens = torch.tensor([token for text in texts for token in text.tokens])
        # How many tokens stand behind each.
        left = torch.cat([torch.arange(len(text.tokens) - 1, -1, -1) for text in texts])
        at = (left > 0).nonzero()[:, 0]
        state, embedded = self.head.begin(_hidden(texts)[at]), self._embed(tokens)
        states, places, weights = [], [], []
        for step in range(STEPS):
            has_more = left[at] > step
            state, at = state[has_more], at[has_more]
            state = self.head.advance(state, embedded[at + step])
            states.append(state)
            places.append(at + step + 1)
            weights.append(torch.full((len(at),), DECAY**step))
        proposed = torch.cat(places)
        columns = self._columns[torch.cat([text.kept for text in texts])[proposed]]
        probs = torch.cat([text.probs for text in texts])[proposed]
        width = len(self.vocabulary)
        return backward(torch.cat(states), self.head.logits, columns, probs, progress, width, torch.cat(weights))

    @torch.no_grad()
    def proposals(self, text: WrittenText) -> Tensor:
        """Of all but the first token: members were fed all before the one in front of it."""
        state = self.head.begin(_hidden([text])[:-1])
        embedded = self._embed(torch.tensor(text.tokens[:-1], dtype=torch.int64))
        return self.head.logits(self.head.advance(state, embedded)).softmax(-1)

    def save(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        keep_weights(self.trained, folder / HEAD_WEIGHTS, self.stored)
        return folder / HEAD_WEIGHTS

    def description(self, base: str) -> dict[str, Any]:
        shape = asdict(self.head.shape)
        # As many as are listed.
        del shape["vocabulary"]
        return {"head": shape, "base": base}


def _hidden(texts: Sequence[WrittenText]) -> Tensor:
    """[tokens, members, size]."""
    states = [text.hidden for text in texts if text.hidden is not None]
    assert len(states) == len(texts), "a head begins with hidden states"
    return torch.cat(states).float()

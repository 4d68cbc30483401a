"""The members' hidden states at the tokens of texts, in a file beside the texts: what a drafting head begins with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..ensemble import Ensemble
from ..errors import UnsupportedModel
from ..runner import Feed
from ..runner.protocol import StatesRunner, hands_out_states
from ..storage import refusal
from .texts import Answer

# What states are kept in: of float32's range.
STORED = torch.bfloat16


def members_of(ensemble: Ensemble) -> list[StatesRunner]:
    """The members' runners. Raises UnsupportedModel for one that hands out no hidden states, or states of another size
    than the first one's."""
    names, members = ensemble.member_names, []
    for name, runner in zip(names, ensemble.runners, strict=False):
        if not hands_out_states(runner):
            raise UnsupportedModel(
                f"a drafting head reads members' hidden states, and {name!r} hands out none; give models that "
                "transformers runs (for a GGUF file `backend: transformers`), or leave --head out"
            )
        members.append(runner)
    sizes = {name: member.state_size for name, member in zip(names, members, strict=True)}
    if len({*sizes.values()}) > 1:
        raise UnsupportedModel(
            "a drafting head reads hidden states of one size, and the members' are of "
            f"{', '.join(f'{size} ({name})' for name, size in sizes.items())}; leave --head out"
        )
    return members


@torch.no_grad()
def hidden_states(members: Sequence[StatesRunner], answer: Answer) -> Tensor:
    """[len(tokens), members, size]: each member's before each of the tokens, which its output embedding reads there."""
    states = []
    count = len(answer.text.tokens)
    for member, prompt in zip(members, answer.lane_prompts, strict=False):
        fed = [*prompt, *answer.text.tokens[:-1]]
        slot = member.open()
        try:
            kept = member.keep_states(slot)
            # States are kept of tokens that may be taken back, and of the one before.
            member.feed([Feed(slot, fed, 0, settled=len(fed) - count + 1)])
            _, found = kept.stretches[-1]
        finally:
            member.close(slot)
        states.append(found[found.shape[0] - count :].to("cpu", STORED))
    return torch.stack(states, dim=1)


@dataclass(frozen=True, kw_only=True)
class HiddenFile:
    """States of texts, one behind the other, in the order of the texts, which is the same in every run."""

    path: Path
    answers: Sequence[Answer]
    num_members: int
    size: int

    @property
    def num_done(self) -> int:
        """Of how many texts all states are kept."""
        kept = self.path.stat().st_size // self._row_bytes if self.path.exists() else 0
        done = 0
        for answer in self.answers:
            kept -= len(answer.text.tokens)
            if kept < 0:
                break
            done += 1
        return done

    def write(
        self, members: Sequence[StatesRunner], should_stop: Callable[[], bool], on_text: Callable[[], None]
    ) -> bool:
        """Read the texts that have no states; whether all have. Raises CospecError where they cannot be written."""
        done = self.num_done
        try:
            with self.path.open("ab") as file:
                # What a run that was cut off wrote of a text.
                file.truncate(self._row_bytes * sum(len(answer.text.tokens) for answer in self.answers[:done]))
                for answer in self.answers[done:]:
                    if should_stop():
                        return False
                    file.write(hidden_states(members, answer).view(torch.int16).numpy().tobytes())
                    on_text()
        except OSError as error:
            raise refusal(self.path, error) from None
        return True

    def read(self) -> list[Tensor]:
        """Of each text [len(tokens), members, size]. They stay on the disk until they are used."""
        shape = (sum(len(answer.text.tokens) for answer in self.answers), self.num_members, self.size)
        # Copied on a write: torch knows no tensors that cannot be written.
        whole = np.memmap(self.path, dtype=np.int16, mode="c", shape=shape)
        return [*torch.split(torch.from_numpy(whole).view(STORED), [len(each.text.tokens) for each in self.answers])]

    @property
    def _row_bytes(self) -> int:
        return self.num_members * self.size * STORED.itemsize

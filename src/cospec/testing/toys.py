"""Toy ensembles whose laws can be enumerated: what schedules and combinations are checked with."""

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ..core.combine import Combination, level
from ..core.draws import Draws
from ..core.engine import Engine
from ..core.feeding import Participant
from ..core.live import Request
from ..core.params import SamplingParams
from ..core.policy import Policy
from ..core.transforms import History, shape, shape_members
from ..runner.toy import FunctionRunner
from ..schedule import Setting
from .enumeration import Law

Text = tuple[int, ...]

VOCAB_SIZE = 3
PROMPT = (1, 0)
END = VOCAB_SIZE - 1


@functools.cache
def toy_model(seed: int, sharpness: float = 1.3) -> Callable[[Text], list[float]]:
    """Logits over three tokens that depend on all tokens so far."""

    @functools.cache
    def logits(text: Text) -> list[float]:
        source = random.Random(f"{seed} {text}")
        return [source.gauss(0, sharpness) for _ in range(VOCAB_SIZE)]

    return logits


@dataclass(frozen=True, kw_only=True)
class ToyEnsemble:
    """Toy members under a combination and a sampling, with drafters beside them."""

    combination: Combination
    num_members: int = 2
    num_drafters: int = 0
    params: SamplingParams = field(default_factory=lambda: SamplingParams(max_tokens=3))

    @property
    def setting(self) -> Setting:
        """What a plan is made for."""
        return Setting(
            combination=self.combination,
            members=tuple(f"member {i}" for i in range(self.num_members)),
            drafters=tuple(f"drafter {i}" for i in range(self.num_drafters)),
            params=self.params,
        )

    def engine(self) -> Engine:
        """An engine with nothing in it."""
        participants = [
            Participant(name, FunctionRunner(VOCAB_SIZE, toy_model(index), end_ids=(END,)))
            for index, name in enumerate(self.setting.lanes)
        ]
        return Engine(participants, self.num_members)

    def request(self, schedule: Policy, verification: str, seed: int = 0, prompt: Text = PROMPT) -> Request:
        """A sequence under this schedule."""
        return Request(
            prompt=prompt,
            lane_prompts=[prompt] * (self.num_members + self.num_drafters),
            params=self.params,
            combination=self.combination,
            schedule=schedule,
            verification=verification,
            draws=Draws(seed),
        )

    def law(self) -> Law:
        """The law of r: the members are fed every token, and each token is drawn from what they are combined into."""
        law: Law = {}
        ends = () if self.params.ignore_eos else (END,)

        def walk(output: Text, probability: float) -> None:
            if len(output) == self.params.max_tokens or (output and output[-1] in ends):
                law[output] = probability
                return
            for token, p in enumerate(self._target(output, ends)):
                if p > 0:
                    walk((*output, token), probability * p)

        walk((), 1.0)
        return law

    def _target(self, output: Text, ends: Sequence[int]) -> list[float]:
        rows = [toy_model(member)(PROMPT + output) for member in range(self.num_members)]
        raw = torch.tensor(rows, dtype=torch.float64)[:, None]
        logits = shape_members(raw, self.params)
        history = History(prompt=PROMPT, output=output, start=len(output))
        log_r = self.combination.log_probs(logits)
        log_p = shape(log_r, self.params, history, ends, level(self.combination, raw))
        return [float(p) for p in log_p[0].exp()]


def distance(law: Law, other: Law) -> float:
    """Total variation between two laws of texts."""
    return sum(abs(law.get(text, 0.0) - other.get(text, 0.0)) for text in law.keys() | other.keys()) / 2

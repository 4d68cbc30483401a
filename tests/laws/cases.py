"""What a law is proved for: members, a combination and its formula, a schedule, a verification, transforms."""

import functools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cospec import (
    Arithmetic,
    Combination,
    Contrastive,
    Custom,
    Engine,
    Guided,
    Mixture,
    Product,
    Request,
    SamplingParams,
    Schedule,
    toy,
)
from cospec.core.draws import Draws
from cospec.core.feeding import Participant
from cospec.runner import Feed
from cospec.runner.hf import HfRunner
from cospec.runner.hf.cut import with_head_of
from cospec.schedule import EACH, Plan, Setting, make_schedule
from cospec.testing.enumeration import engine_law

from ..models import tiny
from ..properties import longer
from . import naive
from .naive import Law, Model, Target, Text
from .runs import RunRunner, certain

# A text this long has blocks of drafts with a token behind them, rejections, and drafts behind a rejection. Each token
# more takes about five times as long.
TOKENS = longer(3, 4)

# Models with a seed from here on forbid one token, another one after each text.
FORBIDDING = 1000
# The seed of a drafter whose head is cut to all tokens but the first.
CUT = 97
# The seed of a drafter that proposes several tokens at once.
RUNS = 96
# Models that are no members, and their seeds, by how a plan asks for them.
_DRAFTERS = {
    "drafter": {"drafter": 99},
    "cut drafter": {"cut drafter": CUT},
    "each": {"one drafter": 99, "another": 98},
    "each, one cut": {"one drafter": 99, "another": CUT},
    "run drafter": {"run drafter": RUNS},
    "each, one of runs": {"one drafter": 99, "another": RUNS},
}


@functools.cache
def model(seed: int, vocab_size: int = 3, sharpness: float = 1.3) -> Model:
    """Logits that depend on the whole text so far."""
    if seed == CUT:
        return cut_model(vocab_size)

    @functools.cache
    def logits(text: Text) -> list[float]:
        source = random.Random(f"{seed} {text}")
        row = [source.gauss(0, sharpness) for _ in range(vocab_size)]
        if seed >= FORBIDDING:
            row[source.randrange(vocab_size)] = -math.inf
        return row

    return logits


def cut_model(vocab_size: int) -> Model:
    """The rows of a runner of transformers with a cut vocabulary."""
    ids = range(1, vocab_size)
    whole = tiny("llama", seed=CUT, vocab_size=vocab_size, num_hidden_layers=1).double()
    runner = HfRunner(with_head_of(whole, ids), vocabulary=ids)

    @functools.cache
    def logits(text: Text) -> list[float]:
        slot = runner.open()
        (row,) = runner.feed([Feed(slot, text, 1)])[0].tolist()
        runner.close(slot)
        return row

    return logits


@dataclass(frozen=True)
class Blend:
    """A combination, the same as a formula, and the members that it is tried with. weights: of the formula, if any."""

    combination: Combination
    target: Target
    seeds: tuple[int, ...]
    prompts: tuple[Text, ...] = ()
    weights: tuple[float, ...] | None = None

    @property
    def num_members(self) -> int:
        return len(self.seeds)

    def but_seeds(self, offset: int) -> "Blend":
        """The same of other models."""
        return replace(self, seeds=tuple(seed + offset for seed in self.seeds))


BLENDS = {
    "mixture": Blend(Mixture([0.35, 0.65]), naive.mixture(0.35, 0.65), (1, 2), weights=(0.35, 0.65)),
    "uneven mixture": Blend(Mixture([0.8, 0.2]), naive.mixture(0.8, 0.2), (1, 2), weights=(0.8, 0.2)),
    "mixture of 3": Blend(Mixture([0.2, 0.5, 0.3]), naive.mixture(0.2, 0.5, 0.3), (1, 2, 3), weights=(0.2, 0.5, 0.3)),
    "mixture of 4": Blend(
        Mixture([0.1, 0.4, 0.3, 0.2]), naive.mixture(0.1, 0.4, 0.3, 0.2), (1, 2, 3, 4), weights=(0.1, 0.4, 0.3, 0.2)
    ),
    "mixture of 5": Blend(Mixture([0.2] * 5), naive.mixture(*[0.2] * 5), (1, 2, 3, 4, 5), weights=(0.2,) * 5),
    "product": Blend(Product([0.3, 0.9]), naive.product(0.3, 0.9), (3, 4), weights=(0.3, 0.9)),
    "product of 3": Blend(Product([0.5, 0.2, 0.6]), naive.product(0.5, 0.2, 0.6), (3, 4, 5), weights=(0.5, 0.2, 0.6)),
    "arithmetic": Blend(Arithmetic([1.4, -0.5]), naive.arithmetic(1.4, -0.5), (5, 6), weights=(1.4, -0.5)),
    "arithmetic of 3": Blend(
        Arithmetic([1.0, 0.8, -0.7]), naive.arithmetic(1.0, 0.8, -0.7), (5, 6, 7), weights=(1.0, 0.8, -0.7)
    ),
    "contrastive": Blend(Contrastive(0.4), naive.contrastive(0.4), (7, 8), weights=(1.0, -0.4)),
    "plausible": Blend(Contrastive(0.5, plausibility=0.25), naive.contrastive(0.5, 0.25), (48, 49), weights=(1, -0.5)),
    "plausible, strictly": Blend(
        Contrastive(0.3, plausibility=0.6), naive.contrastive(0.3, 0.6), (54, 55), weights=(1.0, -0.3)
    ),
    "guided": Blend(Guided(1.7), naive.guided(1.7), (10, 10), ((1, 0), (0,)), weights=(1.7, -0.7)),
    "custom": Blend(Custom(lambda log_p: log_p.amax(0)), naive.largest, (11, 12, 13)),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to prove. proposer: a member's index, or a key of _DRAFTERS, for models that are no members.

    runner: what kind the members and drafters are. The last token of the vocabulary is the models' end token.
    """

    blend: Blend
    schedule: str
    verification: str = "token"
    gamma: int | tuple[int, ...] | None = None
    proposer: int | str | None = None
    first: int | None = None
    params: SamplingParams = field(default_factory=SamplingParams)
    vocab_size: int = 3
    sharpness: float = 1.3
    runner: type[toy.FunctionRunner] = toy.FunctionRunner

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        return (*(() if self.params.ignore_eos else (self.vocab_size - 1,)), *self.params.stop_token_ids)

    @property
    def prompts(self) -> tuple[Text, ...]:
        return self.blend.prompts or ((1, 0),) * self.blend.num_members

    @property
    def models(self) -> list[Model]:
        return [model(seed, self.vocab_size, self.sharpness) for seed in self.blend.seeds]

    def engine(self) -> Engine:
        """An engine for such texts, with nothing in it. Members that are one model share a runner."""
        ends = (self.vocab_size - 1,)
        runners = {seed: self._runner(seed, ends) for seed in self._seeds}
        participants = [Participant(name, runners[seed]) for name, seed in zip(self._names, self._seeds, strict=True)]
        return Engine(participants, self.blend.num_members)

    def _runner(self, seed: int, ends: Sequence[int]) -> toy.FunctionRunner:
        own = model(seed, self.vocab_size, self.sharpness)
        if seed == RUNS:
            return RunRunner(self.vocab_size, certain(own), end_ids=ends)
        return self.runner(self.vocab_size, own, end_ids=ends)

    def request(self, draws: Draws) -> Request:
        names = self._names
        setting = Setting(
            combination=self.blend.combination,
            members=names[: self.blend.num_members],
            drafters=names[self.blend.num_members :],
            params=self.params,
            runs=tuple(lane for lane, seed in enumerate(self._seeds) if seed == RUNS),
        )
        proposer = names[self.proposer] if isinstance(self.proposer, int) else self.proposer
        proposer = EACH if len(_DRAFTERS.get(self.proposer, ())) > 1 else proposer
        plan = Plan(
            schedule=self.schedule,
            gamma=self.gamma,
            proposer=proposer,
            first=None if self.first is None else names[self.first],
            verification=self.verification,
        )
        prompts = [*self.prompts, *(self.prompts[0] for _ in _DRAFTERS.get(self.proposer, {}))]
        return Request(
            prompt=self.prompts[0],
            lane_prompts=prompts,
            params=self.params,
            combination=self.blend.combination,
            schedule=self.schedule_of(plan, setting),
            verification=self.verification,
            draws=draws,
        )

    def schedule_of(self, plan: Plan, setting: Setting) -> Schedule:
        return make_schedule(plan, setting)

    def law(self) -> Law:
        """By enumeration of the engine's randomness."""
        engine = self.engine()
        engine.add(self.request(Draws(0)))
        return engine_law(engine)

    def naive_law(self) -> Law:
        return naive.naive_law(self.models, self.prompts, self.blend.target, self.params, self.ends, self.blend.weights)

    def distance(self) -> float:
        """Total variation between what the engine writes and what naive decoding writes."""
        return naive.distance(self.law(), self.naive_law())

    def texts(self, seeds: Sequence[int]) -> list[Text]:
        """What the engine writes with these seeds, all in one batch."""
        engine = self.engine()
        order = [engine.add(self.request(Draws(seed))) for seed in seeds]
        texts: dict[int, Text] = {}
        while engine.num_live:
            for event in engine.step():
                assert event.sheet.error is None, event.sheet.error
                if event.result is not None:
                    texts[event.id] = tuple(event.sheet.output)
        return [texts[id] for id in order]

    def but(self, **changes: object) -> "Case":
        return replace(self, **changes)

    @property
    def _seeds(self) -> list[int]:
        return [*self.blend.seeds, *_DRAFTERS.get(self.proposer, {}).values()]

    @property
    def _names(self) -> tuple[str, ...]:
        members = tuple(f"member {i}" for i in range(self.blend.num_members))
        return (*members, *_DRAFTERS.get(self.proposer, {}))

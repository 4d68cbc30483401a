"""What a distillation is asked to do."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..core.params import SamplingParams
from ..errors import InvalidDistillation, shown

# The most probable tokens of r that are kept at each position; all others are one event, "any other".
NUM_KEPT = 64
# One prompt in so many is held out.
HELD_OUT = 10
# Seeds of two runs are so far apart that no prompt of one has the seed of a prompt of the other.
SEEDS_A_RUN = 10**6


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """How the ensemble writes texts: so many samples a prompt. has_greedy: one of them at temperature 0.

    Raises InvalidDistillation for a number that makes no text, and InvalidSampling for a temperature below 0.
    """

    samples: int = 4
    max_tokens: int = 256
    temperature: float = 1.0
    has_greedy: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _check_counts(samples=self.samples, max_tokens=self.max_tokens)
        _check_seed(self.seed)
        self.params(0)

    def params(self, number: int) -> list[SamplingParams]:
        """Of the prompt of that number, whose draws are its own; r is reported before the temperature."""
        drawn = SamplingParams(
            n=self.samples,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=self.seed * SEEDS_A_RUN + number,
            logprobs=NUM_KEPT,
        )
        if not self.has_greedy:
            return [drawn]
        greedy = replace(drawn, n=1, temperature=0.0)
        return [greedy, replace(drawn, n=self.samples - 1)] if self.samples > 1 else [greedy]

    def settings(self) -> dict[str, Any]:
        """What texts are held against, in JSON's types."""
        ignored = () if self.has_greedy else ("has_greedy",)
        return {key: value for key, value in asdict(self).items() if key not in ignored}


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """How anything is trained.

    vocabulary: the most frequent tokens that may be proposed; None for what is usual of the kind. steps: None for what
    `epochs` readings of all texts take. batch: texts a step. lr: the highest learning rate; None for that of the kind.

    Raises InvalidDistillation for a number that trains nothing.
    """

    vocabulary: int | None = None
    epochs: int = 4
    steps: int | None = None
    # Few texts a step: the same texts, read as often, teach far more in many small steps than in few large ones.
    batch: int = 2
    lr: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_counts(epochs=self.epochs, batch=self.batch)
        if self.steps is not None:
            _check_counts(steps=self.steps)
        if self.vocabulary is not None:
            _check_counts(vocabulary=self.vocabulary)
        _check_seed(self.seed)
        if self.lr is not None and not (isinstance(self.lr, int | float) and 0 < self.lr < 1):
            raise InvalidDistillation(f"lr is a number above 0 and below 1, got {shown(self.lr)}")

    @property
    @abstractmethod
    def usual_lr(self) -> float: ...

    @property
    def peak_lr(self) -> float:
        """The highest learning rate."""
        return self.lr or self.usual_lr

    def settings(self) -> dict[str, Any]:
        """What a checkpoint is held against, in JSON's types."""
        ignored = "epochs" if self.steps is not None else "steps"
        return {key: value for key, value in (asdict(self) | {"lr": self.peak_lr}).items() if key != ignored}


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe(Recipe):
    """A member's first layers, as many as `layers`, of all tokens by default.

    is_whole: the layers themselves are trained, and not an adapter of this rank on them.
    """

    layers: int
    is_whole: bool = False
    rank: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(layers=self.layers, rank=self.rank)

    @property
    def usual_lr(self) -> float:
        """Trained weights bear less than an adapter, which begins as nothing."""
        return WHOLE_LR if self.is_whole else ADAPTER_LR

    def settings(self) -> dict[str, Any]:
        """An adapter's rank says nothing of whole layers."""
        ignored = {"rank"} if self.is_whole else set()
        return {key: value for key, value in super().settings().items() if key not in ignored}


@dataclass(frozen=True, kw_only=True)
class HeadRecipe(Recipe):
    """A drafting head, of HEAD_TOKENS tokens by default. width: see `HeadShape`."""

    width: int = 1024
    epochs: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(width=self.width)

    @property
    def usual_lr(self) -> float:
        return HEAD_LR

    def tokens_of(self, num_entries: int) -> int:
        """How many it proposes among, of so many in all."""
        return self.vocabulary or min(HEAD_TOKENS, num_entries)

    def settings(self) -> dict[str, Any]:
        return {"kind": "head", **super().settings()}


ADAPTER_LR, WHOLE_LR, HEAD_LR = 3e-3, 3e-4, 2e-3
HEAD_TOKENS = 8192


def _check_counts(**counts: object) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise InvalidDistillation(f"{name} must be a whole number of at least 1, got {shown(count)}")


def _check_seed(seed: object) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise InvalidDistillation(f"seed must be a whole number of at least 0, got {shown(seed)}")

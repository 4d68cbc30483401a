"""How much the exactness self-test compares."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is compared: tokens of a text in the equality checks, samples of a prompt in the sampled check."""

    max_tokens: int = 64
    num_samples: int = 100
    num_sampled_prompts: int = 2
    seed: int = 0

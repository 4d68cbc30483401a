"""The bare forward calls that a `plain` run makes: as many tokens through the same models, and nothing around them."""

from collections.abc import Callable

import torch

from ..ensemble import Ensemble
from ..sampling import SamplingParams
from .peers import encoded, model_of


def bare_forwards(ensemble: Ensemble, params: SamplingParams) -> Callable[[str], int]:
    """Each member's prefill and one call a token, with transformers' own cache; the likeliest token goes in next."""

    @torch.inference_mode()
    def run(prompt: str) -> int:
        for runner in ensemble.runners[: len(ensemble.member_names)]:
            cache, ids = None, encoded(runner, prompt)
            for _ in range(params.max_tokens):
                answer = model_of(runner)(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, ids = answer.past_key_values, answer.logits[:, -1:].argmax(-1)
        return params.max_tokens

    return run

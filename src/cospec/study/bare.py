"""The bare forward calls that a `plain` run makes: as many tokens through the same models, and nothing around them."""

from collections.abc import Callable

import torch

from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..runner.hf import cache_argument
from .peers import encoded, model_of


def bare_forwards(ensemble: Ensemble, params: SamplingParams) -> Callable[[str], int]:
    """Each member's prefill and one call a token, with transformers' own cache; the likeliest token goes in next."""

    @torch.inference_mode()
    def run(prompt: str) -> int:
        for member in range(len(ensemble.member_names)):
            model, ids = model_of(ensemble.runners[member]), encoded(ensemble, member, prompt)
            cache = cache_argument(model)
            for _ in range(params.max_tokens):
                logits = model(input_ids=ids, use_cache=True, logits_to_keep=1, **cache).logits
                ids = logits[:, -1:].argmax(-1)
        return params.max_tokens

    return run

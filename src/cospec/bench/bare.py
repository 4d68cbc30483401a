"""The bare forward calls that a `plain` run makes: the same tokens through the same models, and nothing around them."""

import torch

from ..ensemble import Ensemble
from ..results import Result
from ..runner.hf import HfRunner


@torch.inference_mode()
def bare_forwards(ensemble: Ensemble, prompt: str, result: Result) -> None:
    """Each member's prefill and one call a token, with transformers' own cache."""
    assert ensemble.tokenizer is not None
    for runner in ensemble.runners:
        assert isinstance(runner, HfRunner)
        cache = None
        for tokens in (ensemble.tokenizer.encode(prompt), *([token] for token in result.token_ids[:-1])):
            answer = runner.model(
                input_ids=torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            cache = answer.past_key_values

"""What others offer for the same models: transformers' own generation, and members called side by side."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from ..core.combine import Mixture
from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..errors import InvalidBenchmark
from ..runner import Feed, Runner
from ..runner.hf import HfRunner


def model_of(runner: Runner) -> Any:
    """The transformers model behind it. Raises InvalidBenchmark where there is none."""
    if not isinstance(runner, HfRunner):
        raise InvalidBenchmark(f"a benchmark needs models of transformers, and {type(runner).__name__} is none")
    return runner.model


def encoded(ensemble: Ensemble, member: int, prompt: str) -> Tensor:
    """[1, tokens]: what this member is given for a prompt."""
    ids = ensemble.request(prompt, SamplingParams()).lane_prompts[member]
    return torch.tensor([ids], device=model_of(ensemble.runners[member]).device)


def generated(ensemble: Ensemble, member: int, params: SamplingParams, **options: Any) -> Callable[[str], int]:
    """transformers' `generate`, of exactly max_tokens tokens by one member."""
    model = model_of(ensemble.runners[member])

    @torch.inference_mode()
    def run(prompt: str) -> int:
        ids = encoded(ensemble, member, prompt)
        sampling: dict[str, Any] = {"do_sample": False}
        if params.temperature > 0:
            sampling = {"do_sample": True, "temperature": params.temperature, "top_k": 0, "top_p": 1.0}
        text = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=params.max_tokens,
            min_new_tokens=params.max_tokens,
            pad_token_id=0,
            **sampling,
            **options,
        )
        return int(text.shape[1] - ids.shape[1])

    return run


def assisted(ensemble: Ensemble, drafter: Runner, params: SamplingParams) -> Callable[[str], int]:
    """transformers' assisted generation: the first member and a drafter."""
    return generated(ensemble, 0, params, assistant_model=model_of(drafter))


def weighted_assisted(ensemble: Ensemble, params: SamplingParams) -> Callable[[str], int]:
    """Its `assistant_ensemble_weight`: a mixture of target and assistant, but for the token after a block."""
    assert isinstance(ensemble.combination, Mixture)
    return generated(
        ensemble,
        0,
        params,
        assistant_model=model_of(ensemble.runners[1]),
        assistant_ensemble_weight=ensemble.combination.weights[0],
    )


def in_parallel(ensemble: Ensemble, params: SamplingParams) -> Callable[[str], int]:
    """The members' calls of each token side by side, in a thread each, so that they must not share weights; tokens are
    drawn from r."""
    runners = ensemble.runners[: len(ensemble.member_names)]
    pool = ThreadPoolExecutor(len(runners))

    @torch.inference_mode()
    def run(prompt: str) -> int:
        slots = [runner.open() for runner in runners]
        texts = [list(own) for own in ensemble.request(prompt, params).lane_prompts[: len(runners)]]
        for _ in range(params.max_tokens):
            feeds = [[Feed(slot, tokens, 1)] for slot, tokens in zip(slots, texts, strict=True)]
            rows = [row for (row,) in pool.map(lambda runner, feed: runner.feed(feed), runners, feeds)]
            log_r = ensemble.combination.log_probs(torch.stack([row.to(rows[0]) for row in rows]))
            heat = params.temperature
            token = log_r.argmax() if heat == 0 else torch.multinomial(torch.softmax(log_r[0] / heat, dim=-1), 1)
            texts = [[int(token)]] * len(runners)
        for runner, slot in zip(runners, slots, strict=True):
            runner.close(slot)
        return params.max_tokens

    return run

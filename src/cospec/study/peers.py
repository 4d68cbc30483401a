"""What is timed beside cospec's own methods: the members alone, bare forward passes, and transformers' generation."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from ..core.combine import Mixture
from ..core.params import SamplingParams
from ..ensemble import Ensemble, Prompt
from ..errors import InvalidBenchmark
from ..runner import Feed, Runner
from ..runner.hf import AdaptedRunner, HfRunner, cache_argument
from ..runner.protocol import server_of
from ..schedule import Plan
from .methods import Method, PeerMethod, benchmarked, planned, reason, singles

WEIGHTED = "hf-ensemble-weight (not exact)"

DecodeOne = Callable[[Prompt], int]


def bench_methods(
    ensemble: Ensemble, params: SamplingParams, extra: Sequence[Plan]
) -> tuple[list[Method], dict[str, str]]:
    """Every method that these members and this sampling allow, and for the others, by name, the reason.

    extra: plans that are timed beside the published ones.
    """
    published, refused = benchmarked(ensemble, params)
    added, refused_too = planned(ensemble, {str(plan): plan for plan in extra}, params)
    skipped = {name: reason(error) for name, error in (refused | refused_too).items()}
    members = dict(zip(ensemble.member_names, ensemble.runners, strict=False))
    others = [name for name, runner in members.items() if not isinstance(runner, HfRunner)]
    skipped |= {f"hf:{name}": f"{name} is {_what(members[name])}" for name in others}
    hf = {f"hf:{name}": generated(ensemble, i, params) for i, name in enumerate(members) if name not in others}
    after: dict[str, DecodeOne] = {}
    if others:
        skipped["bare"] = ", ".join(f"{name} is {_what(members[name])}" for name in others)
    else:
        after["bare"] = bare_forwards(ensemble, params)
    if len({id(server_of(runner)) for runner in members.values()}) == len(members):
        after["parallel"] = in_parallel(ensemble, params)
    else:
        skipped["parallel"] = "members share their weights, and are one call already"
    assisted, reasons = _assisted(ensemble, params)
    ours = {method.name: method for method in (*published, *added)}
    return [*ours.values(), *_peers(hf), *singles(ensemble, params), *_peers(after | assisted)], skipped | reasons


def _what(runner: Runner) -> str:
    """What a runner is that no model of transformers can stand for."""
    return "an adapter on a shared base" if isinstance(runner, AdaptedRunner) else "no model of transformers"


def _assisted(ensemble: Ensemble, params: SamplingParams) -> tuple[dict[str, DecodeOne], dict[str, str]]:
    """transformers' generation with an assistant: what it offers for these models, and for the rest the reason."""
    offered: dict[str, DecodeOne] = {}
    skipped: dict[str, str] = {}
    target, num_members = ensemble.runners[0], len(ensemble.member_names)
    drafter = next((runner for runner in ensemble.runners[num_members:] if isinstance(runner, HfRunner)), None)
    if drafter is not None and isinstance(target, HfRunner):
        offered["hf-assisted"] = generated(ensemble, 0, params, assistant_model=drafter.model)
    else:
        skipped["hf-assisted"] = "transformers drafts with a model, and no drafter is one; give one as --proposer"
    combination, are_hf = ensemble.combination, [isinstance(runner, HfRunner) for runner in ensemble.runners]
    if isinstance(combination, Mixture) and are_hf[:num_members] == [True, True] and params.temperature > 0:
        # A mixture of target and assistant, except for the token that follows a block of drafts.
        options = {"assistant_ensemble_weight": combination.weights[0]}
        offered[WEIGHTED] = generated(ensemble, 0, params, assistant_model=model_of(ensemble.runners[1]), **options)
    else:
        skipped[WEIGHTED] = "transformers mixes two models, above temperature 0"
    return offered, skipped


def _peers(decoders: dict[str, DecodeOne]) -> list[PeerMethod]:
    return [PeerMethod(name=name, decode_one=decode_one) for name, decode_one in decoders.items()]


def model_of(runner: Runner) -> Any:
    """The transformers model that a runner calls. Raises InvalidBenchmark where there is none."""
    if not isinstance(runner, HfRunner):
        raise InvalidBenchmark(f"a benchmark needs models of transformers, and {type(runner).__name__} is none")
    return runner.model


def encoded(ensemble: Ensemble, member: int, prompt: Prompt) -> Tensor:
    """[1, tokens]: what this member is fed for a prompt."""
    ids = ensemble.rendered(prompt)[member]
    return torch.tensor([ids], device=model_of(ensemble.runners[member]).device)


def generated(ensemble: Ensemble, member: int, params: SamplingParams, **options: Any) -> DecodeOne:
    """transformers' `generate`, of exactly max_tokens tokens by one member."""
    model = model_of(ensemble.runners[member])

    @torch.inference_mode()
    def run(prompt: Prompt) -> int:
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


def bare_forwards(ensemble: Ensemble, params: SamplingParams) -> DecodeOne:
    """The forward passes of a `plain` run and nothing around them: prefill, then one per token, with transformers' own
    cache, greedily, member by member."""

    @torch.inference_mode()
    def run(prompt: Prompt) -> int:
        for member in range(len(ensemble.member_names)):
            model, ids = model_of(ensemble.runners[member]), encoded(ensemble, member, prompt)
            cache = cache_argument(model)
            for _ in range(params.max_tokens):
                logits = model(input_ids=ids, use_cache=True, logits_to_keep=1, **cache).logits
                ids = logits[:, -1:].argmax(-1)
        return params.max_tokens

    return run


def in_parallel(ensemble: Ensemble, params: SamplingParams) -> DecodeOne:
    """Plain decoding in which the members' forward passes of a token run side by side, each in its own thread.

    The members must not share weights. Tokens are drawn from r.
    """
    runners, width = ensemble.runners[: len(ensemble.member_names)], ensemble.vocab_size
    pool = ThreadPoolExecutor(len(runners))

    @torch.inference_mode()
    def run(prompt: Prompt) -> int:
        slots = [runner.open() for runner in runners]
        unfed = [list(own) for own in ensemble.rendered(prompt)[: len(runners)]]
        try:
            for _ in range(params.max_tokens):
                feeds = [[Feed(slot, tokens, 1)] for slot, tokens in zip(slots, unfed, strict=True)]
                rows = [row[:, :width] for (row,) in pool.map(lambda runner, feed: runner.feed(feed), runners, feeds)]
                log_r = ensemble.combination.log_probs(torch.stack([row.to(rows[0]) for row in rows]))
                heat = params.temperature
                token = log_r.argmax() if heat == 0 else torch.multinomial(torch.softmax(log_r[0] / heat, dim=-1), 1)
                unfed = [[int(token)]] * len(runners)
        finally:
            for runner, slot in zip(runners, slots, strict=True):
                runner.close(slot)
        return params.max_tokens

    return run

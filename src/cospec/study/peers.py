"""What is timed beside cospec's own methods: the members alone, bare forward passes, and transformers' generation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..core.combine import Mixture
from ..core.params import SamplingParams
from ..ensemble import Ensemble, Prompt
from ..errors import InvalidBenchmark
from ..runner import Feed, Runner
from ..runner.hf import AdaptedRunner, HfRunner, cache_argument, is_packed, separated, unpacked
from ..runner.lookup import LookupRunner
from ..runner.protocol import server_of
from ..schedule import Plan
from .methods import Method, PeerMethod, benchmarked, planned, reason, singles

WEIGHTED = "hf-ensemble-weight (not exact)"
# Behind the names of peers that run on the weights that cospec packed.
PACKED = " packed"
# As many tokens a draft as transformers' documentation of its prompt lookup takes.
LOOKUP_TOKENS = 10

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
    hf = [
        peer
        for i, name in enumerate(members)
        if name not in others
        for peer in generating(f"hf:{name}", ensemble, params, [i])
    ]
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
    return [*ours.values(), *hf, *singles(ensemble, params), *_peers(after), *assisted], skipped | reasons


def _what(runner: Runner) -> str:
    """What a runner is that no model of transformers can stand for."""
    return "an adapter on a shared base" if isinstance(runner, AdaptedRunner) else "no model of transformers"


def _assisted(ensemble: Ensemble, params: SamplingParams) -> tuple[list[PeerMethod], dict[str, str]]:
    """transformers' generation with an assistant or a lookup: what it offers for these models, and for the rest why
    not."""
    offered: list[PeerMethod] = []
    skipped: dict[str, str] = {}
    target, num_members = ensemble.runners[0], len(ensemble.member_names)
    drafters = [i for i, runner in enumerate(ensemble.runners) if i >= num_members and isinstance(runner, HfRunner)]
    if drafters and isinstance(target, HfRunner):
        offered += generating("hf-assisted", ensemble, params, [0, drafters[0]])
    else:
        skipped["hf-assisted"] = "transformers drafts with a model, and no drafter is one; give one as --proposer"
    if any(isinstance(runner, LookupRunner) for runner in ensemble.runners[num_members:]):
        if num_members == 1 and isinstance(target, HfRunner):
            offered += generating("hf-lookup", ensemble, params, [0], prompt_lookup_num_tokens=LOOKUP_TOKENS)
        else:
            skipped["hf-lookup"] = "transformers looks drafts up for one model of its own"
    combination, are_hf = ensemble.combination, [isinstance(runner, HfRunner) for runner in ensemble.runners]
    if isinstance(combination, Mixture) and are_hf[:num_members] == [True, True] and params.temperature > 0:
        # A mixture of target and assistant, except for the token that follows a block of drafts.
        options = {"assistant_ensemble_weight": combination.weights[0]}
        offered += generating(WEIGHTED, ensemble, params, [0, 1], **options)
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


class Models:
    """The models of a peer, the one that generates first, then its assistant.

    is_stock: as transformers has them, and not with the weights that cospec packed for its own passes. Those are
    unpacked, or packed layer by layer, while the peer runs, so that no other method's memory has them.
    """

    def __init__(self, models: Sequence[Any], *, is_stock: bool) -> None:
        self._models, self._is_stock = [*models], is_stock
        self.ready: list[Any] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Around a run: the models are ready."""
        prepared = unpacked if self._is_stock else separated
        self.ready = [prepared(model) if is_packed(model) else model for model in self._models]
        try:
            yield
        finally:
            self.ready = []


def generating(
    name: str, ensemble: Ensemble, params: SamplingParams, lanes: Sequence[int], **options: Any
) -> list[PeerMethod]:
    """transformers' `generate` by the first of these lanes' models, with the second one's as its assistant: on stock
    weights, and where cospec packed them, also on those.

    Raises InvalidBenchmark for a lane that is no model of transformers.
    """
    models = [model_of(ensemble.runners[lane]) for lane in lanes]
    kinds = {name: Models(models, is_stock=True)}
    if any(map(is_packed, models)):
        kinds[f"{name}{PACKED}"] = Models(models, is_stock=False)
    peers = []
    for label, made in kinds.items():
        generate = generated(ensemble, lanes[0], params, made, **options)
        peers.append(PeerMethod(name=label, decode_one=_num_tokens(generate), held=made.held))
    return peers


def _num_tokens(generate: Callable[[Prompt], list[int]]) -> DecodeOne:
    return lambda prompt: len(generate(prompt))


# What a model's own generation settings would change of its distribution, and where its texts end: cospec's methods
# decode the models' own distributions, past end tokens.
_NEUTRAL: Mapping[str, Any] = {
    "eos_token_id": None,
    "pad_token_id": 0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "min_length": 0,
}
_SAMPLED: Mapping[str, Any] = {"do_sample": True, "top_k": 0, "top_p": 1.0, "min_p": None, "typical_p": 1.0}


def generated(
    ensemble: Ensemble, lane: int, params: SamplingParams, models: Models, **options: Any
) -> Callable[[Prompt], list[int]]:
    """transformers' `generate`: the max_tokens tokens that follow what this lane is fed for a prompt, end tokens passed
    over. Greedy ones are those of cospec's `plain`, but for ties of rounding. models: held while it runs."""
    heat = {**_SAMPLED, "temperature": params.temperature} if params.temperature > 0 else {"do_sample": False}

    @torch.inference_mode()
    def run(prompt: Prompt) -> list[int]:
        # Held already where it is timed.
        with nullcontext() if models.ready else models.held():
            model, *assistants = models.ready
            ids = encoded(ensemble, lane, prompt)
            text = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=params.max_tokens,
                **_NEUTRAL,
                **heat,
                **({"assistant_model": assistants[0]} if assistants else {}),
                **options,
            )
        return [int(token) for token in text[0, ids.shape[1] :]]

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

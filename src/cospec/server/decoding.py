"""From a client's request to sequences for the engine: its plan, its sampling, and the room that contexts leave."""

import asyncio
import logging
from collections.abc import Callable
from collections.abc import Sequence as Values
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from ..core.draws import Draws
from ..core.live import Request
from ..core.params import Constraint, SamplingParams
from ..ensemble import Ensemble, Prompt
from ..errors import CospecError
from ..names import VERIFICATIONS
from ..schedule import Plan, schedule_names
from .answers import Tracer
from .codec import Codec, context_exceeded
from .errors import ApiError
from .host import Host, Submission
from .schema import DecodingRequest
from .settings import ServerSettings

logger = logging.getLogger(__name__)

Made = TypeVar("Made")

# Ensembles under other plans or weights are kept with what `auto` measured for them, so many at a time.
MOST_VARIANTS = 32


class Decoder:
    """The served ensemble, under the plan and weights that each request asks for."""

    def __init__(self, ensemble: Ensemble, settings: ServerSettings, host: Host) -> None:
        self.ensemble = ensemble
        self.settings = settings
        self.host = host
        # The members' alone: a drafter whose context is full proposes no more, and the sequence goes on.
        members = ensemble.runners[: len(ensemble.member_names)]
        self._contexts = [_least(runner.context, settings.context) for runner in members]
        self.codec = Codec(ensemble, _least(*self._contexts))
        self._variants: dict[tuple[Plan, tuple[float, ...] | None], Ensemble] = {}
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="cospec-requests")
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="cospec-tokens")

    def close(self) -> None:
        self._preparing.shutdown()
        self._aside.shutdown()

    async def prepared(self, make: Callable[[], Made]) -> Made:
        """The result of `make`, called in the thread that encodes prompts and reads grammars, one request at a time: a
        long prompt delays no stream."""
        return await asyncio.get_running_loop().run_in_executor(self._preparing, make)

    async def aside(self, make: Callable[[], Made]) -> Made:
        """The same in the thread for /tokenize, /detokenize and long answers, which delays no request that is to be
        decoded."""
        return await asyncio.get_running_loop().run_in_executor(self._aside, make)

    @property
    def offered(self) -> dict[str, list[str]]:
        """The schedules that a request may name, each with the verifications that it may name beside."""
        names = sorted({*schedule_names(), self.ensemble.plan.name})
        offered = {name: [each for each in VERIFICATIONS if self._has(name, each)] for name in names}
        return {name: verifications for name, verifications in offered.items() if verifications}

    def submission(
        self,
        asked: DecodingRequest,
        prompts: Values[Prompt],
        *,
        since: float,
        max_tokens: int | None,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
    ) -> Submission:
        """The request's sequences, checked, prompt by prompt and sample by sample; not yet submitted.

        since: when the request arrived. max_tokens: None for as many as fit; 0 scores the prompt alone.
        Raises ApiError or CospecError for what is wrong with the request.
        """
        ensemble = self._variant(asked)
        num_samples = asked.n or 1
        count, most = len(prompts) * num_samples, self.settings.max_sequences + self.settings.max_waiting
        if not 1 <= count <= most:
            raise ApiError(400, f"{count} texts were asked for at once; from 1 to {most} can be had")
        new_constraint = self._grammar(asked)
        params = SamplingParams(
            **asked.sampling(),
            max_tokens=(self.codec.context or SamplingParams.max_tokens) if max_tokens is None else max_tokens,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            constraint=new_constraint(),
        )
        requests: list[Request] = []
        for prompt in prompts:
            self.codec.check(prompt)
            first = self._fitted(ensemble.request(prompt, params))
            self.host.engine.check(first)
            for sample in range(num_samples):
                draws = Draws(first.draws.seed, sample)
                # A constraint has a state, so that each sequence has its own.
                own = replace(first.params, constraint=new_constraint())
                requests.append(replace(first, draws=draws, params=own, index=len(requests)))
        tracers = [Tracer(index, self.codec.speller.spell) for index in range(count)] if asked.trace else []
        return Submission(requests, since, tracers)

    def _variant(self, asked: DecodingRequest) -> Ensemble:
        """The ensemble under the plan and weights that the request asks for."""
        plan = self.ensemble.plan_under(asked.schedule, asked.verification)
        if asked.gamma is not None:
            plan = replace(plan, gamma=tuple(asked.gamma) if isinstance(asked.gamma, list) else asked.gamma)
        weights = None if asked.weights is None else tuple(asked.weights)
        if (plan, weights) == (self.ensemble.plan, None):
            return self.ensemble
        if (plan, weights) not in self._variants:
            if len(self._variants) >= MOST_VARIANTS:
                del self._variants[next(iter(self._variants))]
            ensemble = self.ensemble if weights is None else self._weighted(weights)
            self._variants[plan, weights] = ensemble.with_plan(plan)
        return self._variants[plan, weights]

    def _weighted(self, weights: Values[float]) -> Ensemble:
        combination: Any = self.ensemble.combination
        if "weights" not in getattr(combination, "__dataclass_fields__", {}):
            raise ApiError(400, f"{combination.name} has no weights", param="weights")
        # Its other options stay as they are.
        return self.ensemble.with_combination(replace(combination, weights=tuple(weights)))

    def _fitted(self, request: Request) -> Request:
        """The request with no more tokens than every member has room for. Raises ApiError where that is none."""
        max_tokens = request.params.max_tokens
        for context, prompt in zip(self._contexts, request.lane_prompts, strict=False):
            if context is not None:
                max_tokens = min(max_tokens, context - len(prompt))
                if max_tokens < min(1, request.params.max_tokens):
                    raise context_exceeded(f"the prompt has {len(prompt)} tokens", context)
        return replace(request, params=replace(request.params, max_tokens=max_tokens))

    def _has(self, schedule: str, verification: str) -> bool:
        """Whether a request may name them."""
        try:
            self.ensemble.with_plan(self.ensemble.plan_under(schedule, verification))
        except CospecError:
            return False
        except Exception as error:  # another package's schedule may raise anything
            logger.warning("the schedule %r is not offered: %s", schedule, type(error).__name__)
            return False
        return True

    def _grammar(self, asked: DecodingRequest) -> Callable[[], Constraint | None]:
        """What makes a constraint for each sequence; the grammar itself is read once."""
        wanted = asked.grammar()
        if wanted is None:
            return lambda: None
        tokenizer: Any = self.ensemble.tokenizer
        if not hasattr(tokenizer, "grammar"):
            raise ApiError(400, "structured output needs members with a tokenizer", param="response_format")
        grammar = tokenizer.grammar(*wanted, self.ensemble.vocab_size, self.ensemble.end_ids)
        new_constraint: Callable[[], Constraint] = grammar.constraint
        return new_constraint


def _least(*limits: int | None) -> int | None:
    """The smallest of the limits that there are; None if there is none."""
    return min((limit for limit in limits if limit is not None), default=None)

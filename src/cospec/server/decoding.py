"""From a client's request to texts in the engine: prompts, sampling, and the plan that the request asks for."""

import asyncio
from collections.abc import Callable
from collections.abc import Sequence as Values
from dataclasses import replace
from typing import Any

from ..combine import Combination
from ..engine import Request
from ..ensemble import Ensemble
from ..errors import InvalidPrompt
from ..results import Result
from ..sampling import Draws, SamplingParams
from ..schedule import Plan
from .errors import ApiError
from .host import Host, Job
from .schema import DecodingRequest, Message
from .settings import ServerSettings

Prompt = str | Values[int]

# Ensembles under other plans or weights, which know what they measured, are kept for so many at a time.
MOST_VARIANTS = 32
# What a chat looks like to members without a template of their own.
ROLES = {"user": "Question", "assistant": "Answer"}


class Decoder:
    """The served ensemble, under whatever plan and weights a request asks for."""

    def __init__(self, ensemble: Ensemble, settings: ServerSettings, host: Host) -> None:
        self.ensemble = ensemble
        self.settings = settings
        self.host = host
        self._variants: dict[tuple[Any, ...], Ensemble] = {}
        self._spelled: dict[int, str] = {}

    @property
    def context(self) -> int | None:
        """The most tokens of prompt and answer together, None for no limit."""
        limits = [runner.context for runner in self.ensemble.runners if runner.context is not None]
        own = [self.settings.context] if self.settings.context else []
        return min([*limits, *own], default=None)

    def job(self, asked: DecodingRequest, prompts: Values[Prompt], max_tokens: int | None, **sampling: Any) -> Job:
        """The request's texts, checked, prompt by prompt, sample by sample; not yet submitted.

        Raises ApiError or a CospecError that tells what is wrong.
        """
        if asked.model is not None and asked.model != self.settings.model:
            raise ApiError(404, f"the model {asked.model!r} is not served, only {self.settings.model!r}", param="model")
        ensemble, num_samples = self._variant(asked), asked.n or 1
        count, most = len(prompts) * num_samples, self.settings.max_sequences + self.settings.max_waiting
        if not 1 <= count <= most:
            raise ApiError(400, f"{count} texts were asked for at once; from 1 to {most} can be had")
        requests = []
        for prompt in prompts:
            params = SamplingParams(**asked.sampling(), **sampling, max_tokens=self._room(max_tokens))
            first = self._within_context(ensemble.request(readable(prompt), params))
            self.host.engine.check(first)
            requests += [
                self._constrained(replace(first, draws=Draws(first.draws.seed, index)), asked, ensemble)
                for index in range(num_samples)
            ]
        return Job(requests, is_traced=bool(asked.trace))

    def chat_prompt(self, messages: Values[Message]) -> Prompt:
        """A chat as its first member's template writes it, or plainly. Raises ApiError."""
        turns = [{"role": message.role, "content": message.text()} for message in messages]
        tokenizer: Any = self.ensemble.tokenizer
        if not getattr(tokenizer, "has_chat_template", False):
            return plain_chat(turns)
        try:
            ids: list[int] = tokenizer.chat(turns)
        except ValueError as error:
            raise ApiError(400, f"the chat template refuses these messages: {error}", param="messages") from error
        return ids

    def spell(self, token: int) -> str:
        """One token as text; bytes that are no whole character as `bytes:\\xe2`."""
        if token not in self._spelled:
            self._spelled[token] = _spelled(self.bytes_of(token))
        return self._spelled[token]

    def bytes_of(self, token: int) -> bytes:
        tokenizer: Any = self.ensemble.tokenizer
        if hasattr(tokenizer, "token_bytes"):
            return bytes(tokenizer.token_bytes(token))
        return str(tokenizer.decode([token])).encode() if tokenizer else f"<{token}>".encode()

    async def results(self, job: Job, is_gone: Callable[[], Any]) -> list[Result]:
        """All texts of a job, in order. Raises ApiError if one fails, or the client goes away."""
        self.host.submit(job)
        gathering, leaving = asyncio.ensure_future(_gathered(job)), asyncio.ensure_future(is_gone())
        try:
            await asyncio.wait({gathering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not gathering.done():
                raise ApiError(499, "the client has gone away")
            return gathering.result()
        finally:
            gathering.cancel()
            leaving.cancel()
            self.host.cancel(job)

    def _variant(self, asked: DecodingRequest) -> Ensemble:
        """The ensemble under the plan and weights asked for; what each measured is kept."""
        weights = tuple(asked.weights) if asked.weights is not None else None
        key = (asked.schedule, asked.verification, weights)
        if key == (None, None, None):
            return self.ensemble
        if key not in self._variants:
            if len(self._variants) >= MOST_VARIANTS:
                self._variants.pop(next(iter(self._variants)))
            self._variants[key] = self._made(asked)
        return self._variants[key]

    def _made(self, asked: DecodingRequest) -> Ensemble:
        ensemble = self.ensemble
        if asked.weights is not None:
            ensemble = ensemble.with_combination(_weighted(ensemble.combination, asked.weights))
        if asked.schedule is not None:
            # Another schedule than the ensemble's own takes its own defaults.
            ensemble = ensemble.with_plan(Plan(schedule=asked.schedule, verification=ensemble.plan.verification))
        if asked.verification is not None:
            ensemble = ensemble.with_plan(verification=asked.verification)
        return ensemble

    def _room(self, max_tokens: int | None) -> int:
        """How many tokens may follow where the client gives no number: as many as fit."""
        if max_tokens is not None:
            return max(1, max_tokens)
        return self.context or SamplingParams.max_tokens

    def _within_context(self, request: Request) -> Request:
        context = self.settings.context
        longest = max(map(len, request.lane_prompts))
        if context is None or longest + request.params.max_tokens <= context:
            return request
        if longest >= context:
            raise ApiError(
                400,
                f"the prompt has {longest} tokens; this server's context holds {context}, the answer included",
                param="prompt",
                code="context_length_exceeded",
            )
        return replace(request, params=replace(request.params, max_tokens=context - longest))

    def _constrained(self, request: Request, asked: DecodingRequest, ensemble: Ensemble) -> Request:
        """With a constraint of its own, if a grammar is asked for: it stands where its text does."""
        grammar = asked.grammar()
        if grammar is None:
            return request
        tokenizer: Any = ensemble.tokenizer
        if not hasattr(tokenizer, "constraint"):
            raise ApiError(400, "structured output needs members with a tokenizer", param="response_format")
        params = replace(request.params, constraint=tokenizer.constraint(*grammar, ensemble.vocab_size))
        return replace(request, params=params, policy=ensemble.policy(params))


def readable(prompt: Prompt) -> Prompt:
    """The prompt itself. Raises InvalidPrompt for a text that is none."""
    if isinstance(prompt, str):
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise InvalidPrompt("the prompt has half of a surrogate pair, which is no character") from None
    return prompt


def plain_chat(turns: Values[dict[str, str]]) -> str:
    """`Question: ...` and `Answer: ...`, other roles' texts in front as they are."""
    lines = [
        f"{ROLES[turn['role']]}: {turn['content']}" if turn["role"] in ROLES else turn["content"] for turn in turns
    ]
    return "\n".join([*lines, f"{ROLES['assistant']}:"])


async def _gathered(job: Job) -> list[Result]:
    results = {step.event.index: step.event.result async for step in job.steps() if step.event.result is not None}
    return [results[index] for index in sorted(results)]


def _weighted(combination: Combination, weights: Values[float]) -> Combination:
    if not hasattr(combination, "weights"):
        raise ApiError(400, f"{combination.name} has no weights", param="weights")
    kind: Any = type(combination)
    made: Combination = kind(list(weights))
    return made


def _spelled(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

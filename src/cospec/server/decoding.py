"""From a client's request to texts in the engine: prompts, sampling, and the plan that the request asks for."""

import asyncio
from collections.abc import Callable
from collections.abc import Sequence as Values
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from ..core.combine import Combination
from ..core.draws import Draws
from ..core.events import Result
from ..core.live import Request
from ..core.params import Constraint, SamplingParams
from ..ensemble import Ensemble
from ..errors import InvalidPrompt
from ..runner import Runner
from ..schedule import Plan
from .errors import ApiError
from .host import Host, Job
from .schema import DecodingRequest, Message, TokenizeRequest
from .settings import ServerSettings

Prompt = str | Values[int]
Text = TypeVar("Text", str, Prompt)
Made = TypeVar("Made")


class Grammar(Protocol):
    """A grammar that was read, for any number of texts."""

    def constraint(self) -> Constraint: ...


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
        self._variants: dict[tuple[Plan, tuple[float, ...] | None], Ensemble] = {}
        self._spelled: dict[int, str] = {}
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="cospec-requests")
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="cospec-tokens")

    def close(self) -> None:
        self._preparing.shutdown()
        self._aside.shutdown()

    async def prepared(self, make: Callable[[], Made]) -> Made:
        """What `make` makes, in a thread that encodes prompts and reads grammars, one request at a time: a long one
        holds up no stream."""
        return await asyncio.get_running_loop().run_in_executor(self._preparing, make)

    async def aside(self, make: Callable[[], Made]) -> Made:
        """The same for tokens and texts that are asked for by themselves, and for long answers, in a thread that no
        request waits for to be decoded."""
        return await asyncio.get_running_loop().run_in_executor(self._aside, make)

    @property
    def context(self) -> int | None:
        """The most tokens of prompt and answer together, None for no limit."""
        return min((limit for limit in map(self._limit, self._members) if limit is not None), default=None)

    def job(
        self, asked: DecodingRequest, prompts: Values[Prompt], max_tokens: int | None, *, since: float, **sampling: Any
    ) -> Job:
        """The request's texts, checked, prompt by prompt, sample by sample; not yet submitted. since: when it came.

        Raises ApiError or a CospecError that tells what is wrong.
        """
        if asked.model is not None and asked.model != self.settings.model:
            raise ApiError(404, f"the model {asked.model!r} is not served, only {self.settings.model!r}", param="model")
        ensemble, num_samples, is_prompt_only = self._variant(asked), asked.n or 1, max_tokens == 0
        if is_prompt_only:
            # Each member is fed the prompt once: there is nothing to draft.
            ensemble = ensemble.with_plan(Plan(schedule="plain"))
        count, most = len(prompts) * num_samples, self.settings.max_sequences + self.settings.max_waiting
        if not 1 <= count <= most:
            raise ApiError(400, f"{count} texts were asked for at once; from 1 to {most} can be had")
        constraint = self._constraints(asked)
        params = SamplingParams(
            **asked.sampling(), **sampling, max_tokens=self._room(max_tokens), constraint=constraint()
        )
        requests = []
        for prompt in prompts:
            first = replace(ensemble.request(self._readable(prompt), params), is_prompt_only=is_prompt_only)
            first = self._within_context(first)
            self.host.engine.check(first)
            requests += [
                replace(
                    first,
                    draws=Draws(first.draws.seed, index),
                    params=replace(first.params, constraint=constraint()),
                )
                for index in range(num_samples)
            ]
        return Job(requests, since, is_traced=bool(asked.trace), is_prompt_only=is_prompt_only)

    def chat_prompt(self, messages: Values[Message]) -> Prompt:
        """A chat as its first member's template writes it, or plainly. Raises ApiError."""
        turns = [{"role": readable(message.role), "content": readable(message.text())} for message in messages]
        self._check_length(sum(len(turn["content"]) for turn in turns))
        tokenizer: Any = self.ensemble.tokenizer
        if not getattr(tokenizer, "has_chat_template", False):
            return plain_chat(turns)
        try:
            ids: list[int] = tokenizer.chat(turns)
        except ValueError as error:
            raise ApiError(400, f"the chat template refuses these messages: {error}", param="messages") from error
        return ids

    def tokens(self, asked: TokenizeRequest) -> list[int]:
        """Token ids of a text, or of a chat as it would be fed. Raises ApiError."""
        if (asked.prompt is None) == (asked.messages is None):
            raise ApiError(400, "give prompt or messages")
        prompt = self._readable(asked.prompt or "" if asked.messages is None else self.chat_prompt(asked.messages))
        if not isinstance(prompt, str):
            return list(prompt)
        tokenizer: Any = self.ensemble.tokenizer
        encode = tokenizer.encode if asked.add_special_tokens else getattr(tokenizer, "encode_bare", tokenizer.encode)
        return list(encode(prompt))

    def text(self, tokens: Values[int]) -> str:
        """The text of tokens, of no more than a context holds. Raises ApiError."""
        if self.context is not None and len(tokens) > self.context:
            raise _context_exceeded(f"{len(tokens)} tokens were given", self.context, param="tokens")
        outside = [token for token in tokens if not 0 <= token < self.ensemble.vocab_size]
        if outside:
            raise ApiError(400, f"token id {outside[0]} is outside the vocabulary", param="tokens")
        tokenizer: Any = self.ensemble.tokenizer
        return str(tokenizer.decode(tokens))

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
        plan = self._plan(asked)
        weights = tuple(asked.weights) if asked.weights is not None else None
        key = (plan, weights)
        if key == (self.ensemble.plan, None):
            return self.ensemble
        if key not in self._variants:
            if len(self._variants) >= MOST_VARIANTS:
                self._variants.pop(next(iter(self._variants)))
            self._variants[key] = self._made(plan, weights)
        return self._variants[key]

    def _plan(self, asked: DecodingRequest) -> Plan:
        """The ensemble's own plan, or what is asked for in its place."""
        plan = self.ensemble.plan
        if asked.schedule is not None and asked.schedule != plan.schedule:
            # Another schedule than the ensemble's own takes its own defaults.
            plan = Plan(schedule=asked.schedule, verification=plan.verification)
        return plan if asked.verification is None else replace(plan, verification=asked.verification)

    def _made(self, plan: Plan, weights: tuple[float, ...] | None) -> Ensemble:
        ensemble = self.ensemble
        if weights is not None:
            ensemble = ensemble.with_combination(_weighted(ensemble.combination, weights))
        return ensemble.with_plan(plan)

    def _room(self, max_tokens: int | None) -> int:
        """How many tokens may follow where the client gives no number: as many as fit."""
        if max_tokens is not None:
            return max(1, max_tokens)
        return self.context or SamplingParams.max_tokens

    @property
    def _members(self) -> Values[Runner]:
        """The first lanes', whose contexts bind a text; a drafter whose own is full proposes no more."""
        return self.ensemble.runners[: len(self.ensemble.member_names)]

    def _limit(self, runner: Runner) -> int | None:
        """The most tokens that this member may see here."""
        limits = [limit for limit in (runner.context, self.settings.context) if limit is not None]
        return min(limits, default=None)

    def _readable(self, prompt: Prompt) -> Prompt:
        """The prompt itself. Raises ApiError or InvalidPrompt for a text that is none, or too long."""
        if isinstance(prompt, str):
            self._check_length(len(prompt))
        return readable(prompt)

    def _check_length(self, num_characters: int) -> None:
        """Raises ApiError for a text that is certain to be too long, before it is encoded."""
        longest, context = getattr(self.ensemble.tokenizer, "longest", None), self.context
        if longest and context and num_characters > longest * context:
            raise _context_exceeded(f"the prompt has {num_characters} characters", context)

    def _within_context(self, request: Request) -> Request:
        """With no more tokens than every member has room for. Raises ApiError where that is none."""
        for runner, prompt in zip(self._members, request.lane_prompts, strict=False):
            context = self._limit(runner)
            if context is None:
                continue
            room = request.room(context, prompt)
            if room < 1:
                raise _context_exceeded(f"the prompt has {len(prompt)} tokens", context)
            if request.params.max_tokens > room:
                request = replace(request, params=replace(request.params, max_tokens=room))
        return request

    def _constraints(self, asked: DecodingRequest) -> Callable[[], Constraint | None]:
        """What makes a constraint for each text, which stands where its text does: the grammar is read once."""
        wanted = asked.grammar()
        if wanted is None:
            return lambda: None
        tokenizer: Any = self.ensemble.tokenizer
        if not hasattr(tokenizer, "grammar"):
            raise ApiError(400, "structured output needs members with a tokenizer", param="response_format")
        end_ids = self.ensemble.runners[0].end_ids
        grammar: Grammar = tokenizer.grammar(*wanted, self.ensemble.vocab_size, end_ids)
        return grammar.constraint


def readable(prompt: Text) -> Text:
    """The prompt itself. Raises InvalidPrompt for a text that is none."""
    if isinstance(prompt, str):
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise InvalidPrompt("the prompt has half of a surrogate pair, which is no character") from None
    return prompt


def _context_exceeded(given: str, context: int, *, param: str = "prompt") -> ApiError:
    return ApiError(
        400,
        f"{given}; the context holds {context} tokens, the answer included",
        param=param,
        code="context_length_exceeded",
    )


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

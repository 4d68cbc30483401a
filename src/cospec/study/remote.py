"""A running vLLM server held against cospec's own engine: does it decode from the same r?

Greedy text must be equal, log-probabilities of given tokens must be, and samples must follow one distribution. The
server is asked by token ids, so that no tokenizer and no template stands in between.
"""

import json
import math
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from itertools import pairwise
from typing import Any

from ..core.params import SamplingParams
from ..ensemble import Ensemble, Prompt
from ..errors import CospecError, InvalidEnsemble, InvalidPrompt, shown
from . import fit
from .effort import Effort
from .exactness import (
    FAMILY_ERROR,
    HALF_PRECISION_TIE_GAP,
    SAMPLED,
    SAMPLED_LENGTH,
    Check,
    Difference,
    Sample,
    first_difference,
    tie_gap,
    two_sample_p_values,
)
from .methods import first_error

TIMEOUT_SECONDS = 600
# What stands in the table where a check of our own names a schedule and a verification.
SERVED, UNKNOWN = "vllm serve", "its own"
# Of log r in half precision, whose logits are rounded to about 0.1: the mean of absolute differences.
HALF_PRECISION_MEAN = 0.1
# Samples of one request; more would wait for places anyway.
SAMPLES_A_REQUEST = 50
FAULTY_SAMPLING = (
    "vLLM's CPU build is known to sample wrongly under speculation at temperatures above 0 (vllm#55005): serve it "
    "without --speculative-config, at temperature 0 alone, or on a GPU"
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One completion. of_prompt: log-probabilities of the prompt's tokens but the first, where asked for."""

    tokens: Sample
    of_prompt: tuple[float, ...] = ()


class VllmServer:
    """The completions of one model of a vLLM server. Raises CospecError where it does not answer, or is no vLLM."""

    def __init__(self, url: str, model: str | None = None, key: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise CospecError(f"--vllm is {url!r}, which is no address; give the server's as http://HOST:PORT")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        served = [entry["id"] for entry in self._json("/v1/models").get("data", ())]
        if not served or (model is not None and model not in served):
            raise CospecError(f"{self.url} serves {', '.join(served) or 'no model'}; give one of them as --served")
        self.model = model or served[0]

    def complete(self, prompt: Sequence[int], **fields: Any) -> list[Answer]:
        """The completions of token ids. fields: of vLLM's completions request."""
        body = {"model": self.model, "prompt": [*prompt], "return_token_ids": True} | fields
        found = self._json("/v1/completions", body)
        return [self._answer(choice, prompt) for choice in found["choices"]]

    def drafted(self) -> float:
        """Tokens that were drafted since the server started; 0 of one that does not speculate."""
        text = self._text("/metrics")
        found = re.findall(r"^vllm:spec_decode_num_draft_tokens_total(?:{[^}]*})? (\S+)$", text, re.MULTILINE)
        return math.fsum(map(float, found))

    def _answer(self, choice: Any, prompt: Sequence[int]) -> Answer:
        if not isinstance(choice.get("token_ids"), list):
            raise CospecError(f"{self.url} gives no token ids, which vLLM does since 0.10.2; is it another server?")
        entries = choice.get("prompt_logprobs") or ()
        of_prompt = (entry[str(token)]["logprob"] for entry, token in zip(entries, prompt, strict=False) if entry)
        return Answer(tokens=tuple(choice["token_ids"]), of_prompt=tuple(of_prompt))

    def _json(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            value = json.loads(self._text(path, body))
        except ValueError:
            raise CospecError(f"{self.url}{path} answers with no JSON; is it another server?") from None
        if not isinstance(value, dict):
            raise CospecError(f"{self.url}{path} answers {shown(value)}; is it another server?")
        return value

    def _text(self, path: str, body: dict[str, Any] | None = None) -> str:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, self._headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            raise CospecError(f"{self.url}{path} answers {error.code}: {error.read().decode()[:300]}") from None
        except (OSError, HTTPException) as error:
            raise CospecError(f"{self.url} does not answer: {error}; is `vllm serve` running there?") from None


NUM_CHECKS = 3


def against_vllm(server: VllmServer, ensemble: Ensemble, prompts: Sequence[Prompt], effort: Effort) -> Iterator[Check]:
    """Greedy text, log r, and samples, lazily. Raises InvalidEnsemble for members with prompts of their own."""
    if ensemble.has_own_prompts:
        raise InvalidEnsemble("members have prompts of their own, which vLLM does not give them; use cospec serve")
    plain = ensemble.with_plan(schedule="plain", gamma=None, proposer=None, verification="token")
    given = [plain.rendered(prompt)[0] for prompt in prompts]
    if any(len(tokens) < 2 for tokens in given):
        raise InvalidPrompt("a prompt has one token alone, whose log-probability no server tells; give longer ones")
    texts, check = _greedy_check(server, plain, given, effort)
    yield check
    yield _log_r_check(server, plain, [(*own, *text) for own, text in zip(given, texts, strict=True)])
    yield _sampled_check(server, plain, given[: effort.num_sampled_prompts], effort)


def _greedy_check(
    server: VllmServer, plain: Ensemble, prompts: Sequence[Sample], effort: Effort
) -> tuple[list[Sample], Check]:
    """Our greedy text of each prompt, and the server's held against it."""
    params = SamplingParams(max_tokens=effort.max_tokens, temperature=0, logprobs=2)
    results = plain.generate([[*prompt] for prompt in prompts], params)
    error = first_error(results)
    largest_tie = tie_gap(plain)
    differences = []
    for index, (prompt, result) in enumerate(zip(prompts, results, strict=True)):
        (answer,) = server.complete(prompt, max_tokens=effort.max_tokens, temperature=0)
        own = tuple(result.token_ids)
        if answer.tokens == own or error:
            continue
        position = first_difference(own, answer.tokens)
        gap = _gap(result.logprobs, position)
        differences.append(Difference(index, position, gap, gap <= largest_tie))
    num_tokens = sum(len(result.token_ids) for result in results)
    num_equal = len(prompts) - len(differences)
    return [tuple(result.token_ids) for result in results], Check(
        name="greedy text",
        schedule=SERVED,
        verification=UNKNOWN,
        is_passed=error is None and all(each.is_tie for each in differences),
        detail=error or f"{num_equal} of {len(prompts)} texts equal, {num_tokens} tokens",
        differences=tuple(differences),
        error=error,
        num_texts=len(prompts),
        num_equal=num_equal,
    )


def _gap(logprobs: Any, position: int) -> float:
    """Between our two best tokens; infinite where one text ends and the other goes on."""
    if position >= len(logprobs):
        return math.inf
    (_, first), (_, second), *_ = logprobs[position].top
    return float(first - second)


def _log_r_check(server: VllmServer, plain: Ensemble, texts: Sequence[Sample]) -> Check:
    """The log-probabilities of all tokens but the first of these texts, given as prompts."""
    params = SamplingParams(max_tokens=0, prompt_logprobs=0)
    found: list[float] = []
    for text, result in zip(texts, plain.generate([[*text] for text in texts], params), strict=True):
        (answer,) = server.complete(text, max_tokens=1, temperature=0, prompt_logprobs=0)
        own = [entry.logprob for entry in result.prompt_logprobs or () if entry is not None]
        if len(own) != len(answer.of_prompt) or result.error:
            detail = result.error or f"{len(answer.of_prompt)} log-probabilities for {len(own)} tokens"
            return Check("log r", SERVED, UNKNOWN, is_passed=False, detail=detail, error=detail)
        # A token that r forbids has no logarithm, and must have none there either.
        found += [0.0 if a == b else abs(a - b) for a, b in zip(own, answer.of_prompt, strict=True)]
    largest, mean = max(found), math.fsum(found) / len(found)
    rounding = tie_gap(plain)
    is_half = rounding >= HALF_PRECISION_TIE_GAP
    allowed = HALF_PRECISION_MEAN if is_half else rounding
    is_passed = (mean if is_half else largest) <= allowed
    what = f"of {len(found)} tokens, largest difference {largest:.2g}, mean {mean:.2g}"
    rule = f"allowed {'mean' if is_half else 'largest'} {allowed:g}"
    return Check("log r", SERVED, UNKNOWN, is_passed=is_passed, detail=f"{what}; {rule}")


def _sampled_check(server: VllmServer, plain: Ensemble, prompts: Sequence[Sample], effort: Effort) -> Check:
    """Sampled continuations against plain's, by a two-sample test, and against the rows of r, token by token."""
    before = server.drafted()
    samples = [_samples(server, prompt, effort) for prompt in prompts]
    num_drafted = server.drafted() - before
    params = SamplingParams(max_tokens=SAMPLED_LENGTH, n=effort.num_samples, seed=effort.seed + 1)
    results = plain.generate([[*prompt] for prompt in prompts], params)
    if error := first_error(results):
        return Check(SAMPLED, SERVED, UNKNOWN, is_passed=False, detail=error, error=error)
    expected: list[list[Sample]] = [[] for _ in prompts]
    for result in results:
        expected[result.prompt_index].append(tuple(result.token_ids))
    p_values = [p for one, other in zip(expected, samples, strict=True) for p in two_sample_p_values(one, other)]
    p_values += fit.p_values(fit.Fit(plain, [[*prompt] for prompt in prompts], SAMPLED_LENGTH).excesses(samples))
    lowest, threshold = min(p_values), FAMILY_ERROR / len(p_values)
    detail = f"lowest p {lowest:.2g}; {num_drafted:.0f} tokens drafted meanwhile"
    if lowest < threshold and num_drafted:
        detail += f". {FAULTY_SAMPLING}"
    return Check(
        name=SAMPLED,
        schedule=SERVED,
        verification=UNKNOWN,
        is_passed=lowest >= threshold,
        detail=detail,
        p_value=lowest,
        threshold=threshold,
    )


def _samples(server: VllmServer, prompt: Sample, effort: Effort) -> list[Sample]:
    bounds = [*range(0, effort.num_samples, SAMPLES_A_REQUEST), effort.num_samples]
    return [
        answer.tokens
        for start, stop in pairwise(bounds)
        # The i-th sample of a request is seeded by its seed + i.
        for answer in server.complete(
            prompt, n=stop - start, max_tokens=SAMPLED_LENGTH, temperature=1, top_p=1, top_k=0, seed=effort.seed + start
        )
    ]

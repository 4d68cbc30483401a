"""Sampling parameters, the transforms of log r that they ask for, and the random draws.

Draws are counter-based: each is a hash of (seed, sequence, position, purpose, epoch), so a sequence's text
does not depend on the order of calls nor on what else is in the batch.
"""

import enum
import hashlib
import math
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InvalidSampling
from .gumbel import gumbel


class Constraint(Protocol):
    """What may be said: a grammar, say."""

    def allowed(self, output: Sequence[int], start: int, count: int) -> Tensor:
        """[count, vocab] of booleans: row j is what may follow output[: start + j]. Some token always may."""
        ...


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn from r, and when a sequence ends.

    temperature 0 is argmax r, ties to the lowest id. top_k 0, top_p 1 and min_p 0 are off.
    member_temperature and member_top_p change the members' rows before they are combined.
    logprobs and prompt_logprobs: how many alternatives to report beside each token's own log r (0: its own alone);
    they are r's, before penalties, temperature and the like.
    seed: None draws one. n: samples a prompt. constraint: what forbids tokens by what stands before them.

    Raises InvalidSampling, naming the parameter, what was given and what is allowed.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    member_temperature: float = 1.0
    member_top_p: float = 1.0
    seed: int | None = None
    n: int = 1
    max_tokens: int = 128
    min_tokens: int = 0
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _as_tuple(self.stop))
        object.__setattr__(self, "stop_token_ids", _as_tuple(self.stop_token_ids))
        object.__setattr__(self, "logit_bias", _as_biases(self.logit_bias))
        for name, is_allowed, rule in self._rules():
            if not is_allowed:
                raise InvalidSampling(f"{name} must be {rule}, got {getattr(self, name)!r}")

    def _rules(self) -> list[tuple[str, bool, str]]:
        return [
            ("temperature", _is_number(self.temperature) and self.temperature >= 0, "a finite number >= 0"),
            ("top_k", _is_count(self.top_k), "a whole number >= 0 (0: off)"),
            ("top_p", _is_number(self.top_p) and 0 < self.top_p <= 1, "above 0 and at most 1 (1: off)"),
            ("min_p", _is_number(self.min_p) and 0 <= self.min_p <= 1, "between 0 (off) and 1"),
            ("repetition_penalty", _is_positive(self.repetition_penalty), "a finite number above 0"),
            ("presence_penalty", _is_number(self.presence_penalty), "a finite number"),
            ("frequency_penalty", _is_number(self.frequency_penalty), "a finite number"),
            ("logit_bias", _are_biases(self.logit_bias), "a mapping of token ids to numbers or -inf"),
            ("member_temperature", _is_positive(self.member_temperature), "a finite number above 0"),
            ("member_top_p", _is_number(self.member_top_p) and 0 < self.member_top_p <= 1, "above 0 and at most 1"),
            ("seed", self.seed is None or _is_integer(self.seed), "a whole number or None"),
            ("n", _is_count(self.n) and self.n >= 1, "a whole number >= 1"),
            ("max_tokens", _is_count(self.max_tokens) and self.max_tokens >= 1, "a whole number >= 1"),
            ("min_tokens", _are_ordered(self.min_tokens, self.max_tokens), "a whole number from 0 to max_tokens"),
            ("stop", all(isinstance(text, str) and text for text in self.stop), "non-empty strings"),
            ("stop_token_ids", all(map(_is_count, self.stop_token_ids)), "token ids, whole numbers >= 0"),
            ("ignore_eos", isinstance(self.ignore_eos, bool), "true or false"),
            ("logprobs", self.logprobs is None or _is_count(self.logprobs), "a whole number >= 0 or None"),
            (
                "prompt_logprobs",
                self.prompt_logprobs is None or _is_count(self.prompt_logprobs),
                "a whole number >= 0 or None",
            ),
            (
                "constraint",
                self.constraint is None or callable(getattr(self.constraint, "allowed", None)),
                "an object with `allowed`, or None",
            ),
        ]

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def is_identity(self) -> bool:
        """Whether a draw is from r itself: nothing between the combination and the draw."""
        return self.temperature == 1 and self.top_k == 0 and self.top_p == 1 and self.min_p == 0 and not self.is_biased

    @property
    def warpers(self) -> tuple[float, int, float, float]:
        """What `warp` looks at."""
        return self.temperature, self.top_k, self.top_p, self.min_p

    @property
    def is_argmax(self) -> bool:
        """Whether a token is argmax r itself: at temperature 0, with nothing changing r before."""
        return self.temperature == 0 and not self.is_biased

    @property
    def is_biased(self) -> bool:
        """Whether logits change before they are heated: by what stands before them, or token by token."""
        return self.has_penalties or bool(self.logit_bias) or self.min_tokens > 0 or self.constraint is not None


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return _is_integer(value) and value >= 0  # type: ignore[operator]


def _is_number(value: object) -> bool:
    # Whole numbers may be too large for a float, and math.isfinite raises at them.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_positive(value: object) -> bool:
    return _is_number(value) and value > 0  # type: ignore[operator]


def _are_ordered(low: object, high: object) -> bool:
    return _is_count(low) and _is_count(high) and low <= high  # type: ignore[operator]


def _are_biases(biases: object) -> bool:
    return isinstance(biases, Mapping) and all(
        _is_count(token) and (_is_number(bias) or bias == -math.inf) for token, bias in biases.items()
    )


def _as_tuple(values: object) -> tuple[object, ...]:
    """A lone text or id counts as a list of one, None as an empty one."""
    if values is None:
        return ()
    return tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else (values,)


def _as_biases(biases: object) -> object:
    """JSON has texts for keys: digits become the id that they spell. What is no mapping is left to the rules."""
    if biases is None:
        return {}
    if not isinstance(biases, Mapping):
        return biases
    return {int(token) if isinstance(token, str) and token.isdecimal() else token: b for token, b in biases.items()}


@dataclass(frozen=True, kw_only=True)
class History:
    """What the transforms of one block of positions look back on.

    prompt: the user's prompt. output: tokens before the block, then the block's drafts, so that position j of
    the block looks back on output[: start + j].
    """

    prompt: Sequence[int]
    output: Sequence[int]
    start: int


def shape_members(logits: Tensor, params: SamplingParams) -> Tensor:
    """The members' rows [members, positions, vocab] under member_temperature and member_top_p."""
    if params.member_temperature != 1:
        logits = _heated(logits, params.member_temperature)
    if params.member_top_p < 1:
        logits = _keep_top_p(torch.log_softmax(logits, dim=-1), params.member_top_p)
    return logits


def shape(log_probs: Tensor, params: SamplingParams, history: History, end_ids: Sequence[int]) -> Tensor:
    """log-probabilities [positions, vocab] -> those that tokens are drawn from, same shape, normalised.

    In this order: logit bias, forbidden ends and the constraint, repetition / presence / frequency penalties,
    temperature, top-k, top-p, min-p. At temperature 0 a row is 0 at its argmax and -inf elsewhere.
    """
    if params.is_identity:
        return log_probs
    logits = _bias(log_probs, params, history, end_ids)
    if params.has_penalties:
        logits = _penalise(logits, params, history)
    return warp(logits, params)


def warp(logits: Tensor, params: SamplingParams) -> Tensor:
    """Temperature, top-k, top-p and min-p alone, which look at nothing but the row: log-probabilities, normalised."""
    if params.temperature == 0:
        return _one_hot(logits)
    logits = _heated(logits, params.temperature)
    if params.top_k:
        kth = logits.topk(min(params.top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -math.inf)
    if params.top_p < 1:
        logits = _keep_top_p(torch.log_softmax(logits, dim=-1), params.top_p)
    if params.min_p > 0:
        floor = logits.amax(-1, keepdim=True) + math.log(params.min_p)
        logits = logits.masked_fill(logits < floor, -math.inf)
    return torch.log_softmax(logits, dim=-1)


def _heated(logits: Tensor, temperature: float) -> Tensor:
    """From the maximum down, so that a tiny temperature, even one that rounds to 0 in the rows, leaves the maximum."""
    return (logits - logits.amax(-1, keepdim=True)) / max(temperature, torch.finfo(logits.dtype).tiny)


def _bias(log_probs: Tensor, params: SamplingParams, history: History, end_ids: Sequence[int]) -> Tensor:
    num_early = min(max(params.min_tokens - history.start, 0), log_probs.shape[0])
    if not params.logit_bias and not num_early and params.constraint is None:
        return log_probs
    logits = log_probs.clone()
    if params.logit_bias:
        logits[:, [*params.logit_bias]] += logits.new_tensor([*params.logit_bias.values()])
    if num_early and end_ids:
        logits[:num_early, list(end_ids)] = -math.inf
    if params.constraint is not None:
        allowed = params.constraint.allowed(history.output, history.start, logits.shape[0])
        logits = logits.masked_fill(~allowed.to(logits.device), -math.inf)
    return logits


def _penalise(logits: Tensor, params: SamplingParams, history: History) -> Tensor:
    counts = _counts(history, logits)
    seen = counts > 0
    if history.prompt:
        in_prompt = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        in_prompt[torch.tensor(list(history.prompt), device=logits.device)] = True
        repeated = seen | in_prompt
    else:
        repeated = seen
    penalty = params.repetition_penalty
    if penalty != 1:
        logits = torch.where(repeated, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    return logits - params.frequency_penalty * counts - params.presence_penalty * seen.to(logits)


def _counts(history: History, like: Tensor) -> Tensor:
    """[positions, vocab]: how often each token stands in the output before each position."""
    counts = torch.zeros_like(like)
    before = torch.tensor(list(history.output[: history.start]), dtype=torch.long, device=like.device)
    counts[0].index_add_(0, before, torch.ones_like(before, dtype=like.dtype))
    for row in range(1, like.shape[0]):
        counts[row] = counts[row - 1]
        counts[row, history.output[history.start + row - 1]] += 1
    return counts


def _keep_top_p(log_probs: Tensor, top_p: float) -> Tensor:
    """-inf outside the smallest set of most probable tokens whose sum reaches top_p (ties to the lowest id)."""
    ordered, order = log_probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    # The most probable one stays, whatever top_p rounds to.
    kept = ordered.masked_fill(before >= max(top_p, torch.finfo(before.dtype).tiny), -math.inf)
    return torch.empty_like(log_probs).scatter_(-1, order, kept)


def _one_hot(logits: Tensor) -> Tensor:
    """0 at each row's argmax and -inf elsewhere; NaN at that of a row without a maximum (NaN, or nothing allowed)."""
    highest, best = logits.max(-1, keepdim=True)
    return torch.full_like(logits, -math.inf).scatter_(-1, best, highest - highest)


class Purpose(enum.IntEnum):
    """What a draw is for: draws of different purposes are independent."""

    SETTLE = 0
    PROPOSE = 1
    ACCEPT = 2
    REPLACE = 3
    MEMBER = 4


@dataclass(frozen=True)
class Draws:
    """One sequence's randomness. `index` tells the n samples of one prompt apart."""

    seed: int
    index: int = 0

    def key(self, position: int, purpose: Purpose, epoch: int = 0) -> int:
        """A signed 64-bit hash."""
        packed = struct.pack("<QqqqQ", self.seed % 2**64, self.index, position, purpose, epoch)
        return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little", signed=True)

    def uniform(self, position: int, purpose: Purpose, epoch: int = 0) -> float:
        """In (0, 1), a multiple of 2^-48 off by half of one, so that neither end is ever drawn."""
        return ((self.key(position, purpose, epoch) & (2**48 - 1)) + 0.5) / 2**48

    def noise_keys(self, start: int, num_positions: int) -> list[int]:
        """Those of the noise that settles positions start, start + 1, ..."""
        return [self.key(position, Purpose.SETTLE) for position in range(start, start + num_positions)]

    def gumbel(self, start: int, num_positions: int, like: Tensor) -> Tensor:
        """G_t(x) for positions start, start + 1, ...: [num_positions, vocab], of the last dimension of `like`.

        It depends on (seed, sequence, position, token) alone: it is drawn once for a position, whoever asks.
        """
        return gumbel(self.noise_keys(start, num_positions), like)


def probabilities(log_probs: Tensor) -> Tensor:
    """exp of normalised rows [..., vocab], as softmax: of what underflows, exp alone takes 5 to 20 times as long."""
    return torch.softmax(log_probs, dim=-1)


def draw(probs: Tensor, uniforms: Sequence[float]) -> Tensor:
    """For each row of `probs` [rows, vocab] the token at which its running sum, in float64, passes that uniform of its
    total: [rows, 1] ids."""
    running = probs.cumsum(-1, dtype=torch.float64)
    parts = torch.tensor([[uniform] for uniform in uniforms], dtype=torch.float64, device=running.device)
    return torch.searchsorted(running, running[:, -1:] * parts, right=True)

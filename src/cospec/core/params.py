"""Sampling parameters: how tokens are drawn from r, and when a sequence ends."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InvalidSampling, shown

if TYPE_CHECKING:
    from torch import Tensor

# Of a token id that is written as a text.
MOST_DIGITS = 18


class Constraint(Protocol):
    """What restricts the tokens that may follow, such as a grammar."""

    def allowed(self, output: Sequence[int], start: int, count: int) -> "Tensor":
        """[count, vocab] of booleans: row j is what may follow output[: start + j]. Some token always may."""
        ...


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn from r, and when a sequence ends.

    temperature 0 is argmax r, ties to the lowest id. top_k 0, top_p 1 and min_p 0 are off.
    member_temperature and member_top_p change the members' rows before they are combined.
    logprobs and prompt_logprobs: how many alternatives to report beside each token's own log r (0: its own alone);
    they are r's, before penalties, temperature and the like.
    repetition_penalty: of a token of the prompt or the output, z / penalty where z > 0, else z * penalty, with
    z = log r + the mean of the members' logsumexp, weighed by the size of their weights. A lone member's z is its
    logits, as in transformers and vLLM; a combination has none, and its z stands as high as its members' logits.
    seed: None draws one. n: samples a prompt. max_tokens: 0 decodes nothing, which leaves prompt_logprobs to be
    reported. constraint: forbids tokens by what stands before them.

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
                raise InvalidSampling(f"{name} must be {rule}, got {shown(getattr(self, name))}")

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
            ("max_tokens", _is_count(self.max_tokens), "a whole number >= 0 (0: score the prompt alone)"),
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
        """The parameters that `warp` reads."""
        return self.temperature, self.top_k, self.top_p, self.min_p

    @property
    def cuts(self) -> bool:
        """Whether `warp` forbids tokens that were possible."""
        return self.temperature == 0 or self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def is_argmax(self) -> bool:
        """Whether a token is argmax r itself: at temperature 0, with nothing changing r before."""
        return self.temperature == 0 and not self.is_biased

    @property
    def may_forbid(self) -> bool:
        """Whether tokens may be forbidden by what stands before them, or one by one."""
        return bool(self.logit_bias) or self.min_tokens > 0 or self.constraint is not None

    @property
    def is_biased(self) -> bool:
        """Whether logits change before the temperature divides them: by the tokens before them, or token by token."""
        return self.has_penalties or self.may_forbid


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
    entries = None if isinstance(values, str | bytes | Mapping) else entries_of(values)
    return (values,) if entries is None else tuple(entries)


def entries_of(values: Any) -> Iterator[Any] | None:
    """What it lists; None for what lists nothing. It is asked for them: a tensor or an array of one number has the
    method of a list, and raises."""
    try:
        entries: Iterator[Any] = iter(values)
    except TypeError:
        return None
    return entries


def _as_biases(biases: object) -> object:
    """Keys that are strings of digits, as in JSON, become integers. What is no mapping is left for `_rules` to
    refuse."""
    if biases is None:
        return {}
    if not isinstance(biases, Mapping):
        return biases
    return {_as_id(token): bias for token, bias in biases.items()}


def _as_id(token: object) -> object:
    # Python refuses to read numbers of thousands of digits.
    is_number = isinstance(token, str) and token.isdecimal() and len(token) <= MOST_DIGITS
    return int(token) if is_number else token  # type: ignore[call-overload]

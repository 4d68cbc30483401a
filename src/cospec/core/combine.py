"""Combinations: the members' rows -> log r, the target's log-probabilities.

Every combination is a pure function of the members' logits, in the order of the members, never of who
proposed what. Rows come as [members, positions, vocab]; a position's result depends on that position alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from inspect import Parameter, getdoc, signature
from numbers import Real
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ..errors import CospecError, InvalidCombination, UnknownName, shown
from ..inputs import Key
from ..names import COMBINATIONS, DEFAULT_COMBINATION, DEFAULT_MU, DEFAULT_SCALE
from .select import is_cut

# Stands for minus infinity, below a row's highest logit, where logits are subtracted: inf - inf is not a number.
_FLOOR = -1e4
# A probability is certain in its last bits from so many times the least normal number on.
_SMALL = 1e8


@runtime_checkable
class Combination(Protocol):
    """The function C of design: `log_probs` of r from the members' rows, after `check` of their number."""

    name: str

    def check(self, num_members: int) -> None:
        """Raises InvalidCombination if it cannot combine that many members."""
        ...

    def log_probs(self, logits: Tensor) -> Tensor:
        """[members, positions, vocab] logits -> [positions, vocab], normalised log-probabilities of r."""
        ...


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    try:
        return _is_number(value) and math.isfinite(value)
    except OverflowError:  # a whole number that is too large for a float
        return False


def _weights(weights: object, what: str) -> tuple[float, ...]:
    """Finite numbers, of a list or of an array. Raises InvalidCombination."""
    listed = weights.tolist() if isinstance(weights, Tensor | np.ndarray) else weights
    if not isinstance(listed, Sequence) or isinstance(listed, str | bytes) or not all(map(_is_number, listed)):
        raise InvalidCombination(f"{what} needs a list of numbers as weights, got {shown(weights)}")
    if not listed or not all(map(_is_finite, listed)):
        raise InvalidCombination(f"{what} needs finite weights, one a member, got {shown(listed)}")
    return tuple(map(float, listed))


def _short(weight: float) -> float | int:
    """A whole number without its `.0`."""
    return int(weight) if weight.is_integer() and abs(weight) < 1e9 else weight


def _to_one(weights: tuple[float, ...]) -> list[float]:
    """The same proportions, in as few digits as sum to 1 closely enough to be given as weights."""
    # Divided by the largest first, since the sum of huge ones is infinite.
    scaled = [weight / max(weights) for weight in weights]
    exact = [weight / math.fsum(scaled) for weight in scaled]
    for digits in range(4, 16):
        rounded = [round(weight, digits) for weight in exact]
        # The last one makes up for the rounding of the others.
        rounded[-1] = round(1 - math.fsum(rounded[:-1]), digits)
        if all(math.isclose(*pair, rel_tol=1e-3) for pair in zip(rounded, exact, strict=True)):
            return rounded
    return exact


def _check_count(what: str, weights: tuple[float, ...], num_members: int) -> None:
    if len(weights) != num_members:
        raise InvalidCombination(
            f"{what} has {len(weights)} weights {list(weights)} for {num_members} members; give one weight a member"
        )


def _column(weights: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(weights, dtype=like.dtype, device=like.device).view(-1, 1, 1)


def _weighted_logits(logits: Tensor, weights: tuple[float, ...]) -> Tensor:
    """log softmax(sum_i w_i l_i), [positions, vocab]. What a member of positive weight forbids stays forbidden."""
    column = _column(weights, logits)
    logits = logits - logits.amax(-1, keepdim=True)
    return torch.log_softmax((torch.where(column > 0, logits, logits.clamp(min=_FLOOR)) * column).sum(0), dim=-1)


def log_mixed(logits: Tensor, weights: tuple[float, ...]) -> Tensor:
    """log sum_i w_i softmax(l_i), [positions, vocab], by logarithms throughout."""
    log_p = torch.log_softmax(logits, dim=-1)
    return torch.logsumexp(log_p + _column(weights, log_p).log(), dim=0)


def _mixed(logits: Tensor, weights: tuple[float, ...]) -> Tensor:
    """sum_i w_i softmax(l_i), [positions, vocab]."""
    first, *others = torch.softmax(logits, dim=-1)
    mixed: Tensor = first.mul_(weights[0])
    for p, weight in zip(others, weights[1:], strict=True):
        mixed.add_(p, alpha=weight)
    return mixed


def level(combination: Combination, logits: Tensor) -> Tensor:
    """How high the members' logits stand, [positions, 1], from their [members, positions, vocab].

    log r is normalised, and says nothing of it. log r + level is as high as logits are, and of one member alone it is
    that member's logits: the mean of the members' logsumexp, weighed by the size of their weights where there are some.
    """
    shares = torch.tensor(_shares(combination, logits.shape[0]), dtype=torch.float64)
    shares = shares / shares.sum()
    return torch.einsum("m,mp->p", shares.to(logits), logits.logsumexp(-1))[:, None]


def is_member_alone(combination: Combination) -> bool:
    """Whether r of a single member is its own distribution. A subclass may combine in another way."""
    return type(combination) is Mixture


def _shares(combination: Combination, num_members: int) -> list[float]:
    """How much each member counts among the members: the size of its weight over the largest one."""
    own = getattr(combination, "shares", getattr(combination, "weights", None))
    if not isinstance(own, Sequence) or len(own) != num_members or not all(map(_is_finite, own)) or not any(own):
        return [1.0] * num_members
    sizes = [*map(abs, own)]
    return [size / max(sizes) for size in sizes]


@dataclass(frozen=True)
class Mixture:
    """r = sum_i w_i p_i: a weighted ensemble. Weights are positive and sum to one.

    Raises InvalidCombination for weights that are not positive or do not sum to one.
    """

    weights: tuple[float, ...]
    name = "mixture"

    def __init__(self, weights: Sequence[float]) -> None:
        values = _weights(weights, "Mixture")
        if min(values) <= 0:
            raise InvalidCombination(
                f"Mixture needs positive weights, got {shown([*values])}; leave a member of weight 0 out"
            )
        if abs(sum(values) - 1) > 1e-6:
            raise InvalidCombination(
                f"weights {[*map(_short, values)]} sum to {sum(values):g}; a mixture's must sum to 1: {_to_one(values)}"
            )
        object.__setattr__(self, "weights", tuple(weight / sum(values) for weight in values))

    def check(self, num_members: int) -> None:
        _check_count("Mixture", self.weights, num_members)

    def log_probs(self, logits: Tensor) -> Tensor:
        if len(self.weights) == 1:
            # The sum is that one row, to the bit.
            return torch.log_softmax(logits, dim=-1)[0]
        if not is_cut(logits) or logits.requires_grad:
            return log_mixed(logits, self.weights)
        mixed = _mixed(logits, self.weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_r = torch.from_numpy(np.log(mixed.numpy()))
        # Too small to be told from 0, or no number: each position by itself, whatever stands beside it.
        vague = [
            i for i, least in enumerate(mixed.amin(-1).tolist()) if not least > _SMALL * torch.finfo(mixed.dtype).tiny
        ]
        if vague:
            log_r[vague] = log_mixed(logits[:, vague], self.weights)
        return log_r


@dataclass(frozen=True)
class Product:
    """r proportional to prod_i p_i^w_i: a geometric ensemble (DeRa, Liu et al. 2024; MOD, Shi et al. 2024).

    Raises InvalidCombination for weights that are not positive.
    """

    weights: tuple[float, ...]
    name = "product"

    def __init__(self, weights: Sequence[float]) -> None:
        values = _weights(weights, "Product")
        if min(values) <= 0:
            raise InvalidCombination(
                f"Product needs positive weights, got {shown([*values])}; Arithmetic takes any sign"
            )
        object.__setattr__(self, "weights", values)

    def check(self, num_members: int) -> None:
        _check_count("Product", self.weights, num_members)

    def log_probs(self, logits: Tensor) -> Tensor:
        # A member's normaliser is one factor for all tokens, so that its logits do as well.
        return _weighted_logits(logits, self.weights)


@dataclass(frozen=True)
class Arithmetic:
    """r = softmax(sum_i w_i l_i), weights of any sign (proxy tuning, Liu et al. 2024; DExperts, Liu et al. 2021).

    Raises InvalidCombination for weights that are not finite.
    """

    weights: tuple[float, ...]
    name = "arithmetic"

    def __init__(self, weights: Sequence[float]) -> None:
        object.__setattr__(self, "weights", _weights(weights, "Arithmetic"))

    def check(self, num_members: int) -> None:
        _check_count("Arithmetic", self.weights, num_members)

    def log_probs(self, logits: Tensor) -> Tensor:
        return _weighted_logits(logits, self.weights)


@dataclass(frozen=True)
class Contrastive:
    """r = softmax(l_expert - mu l_amateur), members in that order (Li et al. 2023).

    With `plausibility` b, only tokens with p_expert >= b max p_expert remain.
    Raises InvalidCombination for mu < 0 or a plausibility outside (0, 1].
    """

    mu: float = DEFAULT_MU
    plausibility: float | None = None
    name = "contrastive"

    def __post_init__(self) -> None:
        if not (_is_finite(self.mu) and self.mu >= 0):
            raise InvalidCombination(f"Contrastive needs a finite mu >= 0, got {shown(self.mu)}")
        if self.plausibility is not None and not (_is_finite(self.plausibility) and 0 < self.plausibility <= 1):
            raise InvalidCombination(
                f"Contrastive's plausibility is above 0 and at most 1, got {shown(self.plausibility)}; "
                "leave it out for none"
            )

    def check(self, num_members: int) -> None:
        if num_members != 2:
            raise InvalidCombination(f"Contrastive takes two members, expert then amateur, got {num_members}")

    @property
    def shares(self) -> tuple[float, float]:
        return 1.0, -self.mu

    def log_probs(self, logits: Tensor) -> Tensor:
        log_r = _weighted_logits(logits, self.shares)
        if self.plausibility is None:
            return log_r
        expert = logits[0]
        # p_expert >= b max p_expert, written on logits: their normaliser is the same on both sides.
        is_implausible = expert < expert.amax(-1, keepdim=True) + math.log(self.plausibility)
        return torch.log_softmax(log_r.masked_fill(is_implausible, -math.inf), dim=-1)


@dataclass(frozen=True)
class Guided:
    """r = softmax(l_u + s (l_c - l_u)): classifier-free guidance (Sanchez et al. 2024).

    Members in the order conditional, unconditional; as a rule the same weights under two prompts.
    Raises InvalidCombination for a scale that is not finite.
    """

    scale: float = DEFAULT_SCALE
    name = "guided"

    def __post_init__(self) -> None:
        if not _is_finite(self.scale):
            raise InvalidCombination(f"Guided needs a finite scale, got {shown(self.scale)}")

    def check(self, num_members: int) -> None:
        if num_members != 2:
            raise InvalidCombination(f"Guided takes two members, conditional then unconditional, got {num_members}")

    @property
    def shares(self) -> tuple[float, float]:
        return self.scale, 1.0 - self.scale

    def log_probs(self, logits: Tensor) -> Tensor:
        return _weighted_logits(logits, self.shares)


@dataclass(frozen=True)
class Custom:
    """r = softmax(fn(log p)): any function of the members' log-probabilities at one position.

    fn: [members, vocab] log-probabilities -> [vocab], r's log-probabilities up to a constant. source: what a file calls
    it, `module:function`. Raises InvalidCombination, while decoding, if fn raises or its result has another shape.
    """

    fn: Callable[[Tensor], Tensor]
    source: str | None = field(default=None, compare=False)
    name = "custom"

    @property
    def called(self) -> str:
        """What a file calls it, or would: the same in every process, as the function's own text is not."""
        return self.source or f"{getattr(self.fn, '__module__', '')}:{getattr(self.fn, '__qualname__', '')}"

    def check(self, num_members: int) -> None:
        if not callable(self.fn):
            raise InvalidCombination(
                f"Custom needs a function of the [members, vocab] log-probabilities, got {shown(self.fn)}"
            )

    def log_probs(self, logits: Tensor) -> Tensor:
        log_p = torch.log_softmax(logits, dim=-1)
        try:
            rows = [self.fn(log_p[:, position]) for position in range(logits.shape[1])]
        except Exception as error:  # the user's own code may raise anything, and ends this text alone
            raise InvalidCombination(f"Custom's function raised {type(error).__name__}: {error}") from error
        if any(not isinstance(row, Tensor) or row.shape != logits.shape[2:] for row in rows):
            raise InvalidCombination(f"Custom's function must return a tensor of shape {tuple(logits.shape[2:])}")
        return torch.log_softmax(torch.stack(rows), dim=-1)


def custom(fn: Annotated[str, Key(meaning="module:function", example="my_package:combined")]) -> Custom:
    """r = softmax(fn(log p)), by a function of an installed package, as module:function. Importing it runs its code.

    Raises InvalidCombination where there is no such function.
    """
    module, _, attribute = fn.partition(":") if isinstance(fn, str) else ("", "", "")
    if not module or not attribute:
        raise InvalidCombination(f"custom needs fn as module:function, got {shown(fn)}")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # the user's own code may raise anything as it is imported
        raise InvalidCombination(
            f"custom's function {shown(fn)} cannot be had: {type(error).__name__}: {error}; install its package, or "
            "name its folder in PYTHONPATH"
        ) from None
    made = Custom(found, fn)
    made.check(1)
    return made


def settings_of(combination: Combination) -> dict[str, object]:
    """What it was made of, as results are held against it."""
    return {"fn": combination.called} if isinstance(combination, Custom) else vars(combination)


def combination_settings(combination: Combination) -> dict[str, Any]:
    """What `make_combination` makes it of again: `type`, and its options. Raises InvalidCombination where a file cannot
    name it."""
    if isinstance(combination, Custom):
        source = combination.called
        if custom(source) != combination:
            raise InvalidCombination(f"no file can name {shown(combination.fn)}; give a function of a module")
        return {"type": combination.name, "fn": source}
    options = combination_parameters(combination.name) if combination.name in COMBINATIONS.names() else {}
    given = {name: _plain(getattr(combination, name, None)) for name in options}
    made = make_combination(combination.name, len(given.get(WEIGHTS) or (1, 1)), **given)
    if type(made) is not type(combination):
        raise InvalidCombination(
            f"no file can name {shown(combination)}; register {type(combination).__name__} under `cospec.combinations`"
        )
    return {"type": combination.name, **given}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# The option that has a value for each member.
WEIGHTS = "weights"


def combination_names() -> list[str]:
    """The names that `make_combination` knows: cospec's own, and those that packages register under
    `cospec.combinations`."""
    return sorted(COMBINATIONS.names())


def combination_parameters(kind: str) -> dict[str, Parameter]:
    """The options of the combination of that name, with their types and defaults. Raises UnknownName."""
    make = _kind(kind)
    try:
        found = signature(make, eval_str=True)
    except NameError:  # an annotation that another package imports for its type checker alone
        found = signature(make)
    return {
        name: parameter.replace(annotation=Any)
        if isinstance(parameter.annotation, str) or parameter.annotation is Parameter.empty
        else parameter
        for name, parameter in found.parameters.items()
    }


def combination_summary(kind: str) -> str:
    """The first paragraph of its documentation. Raises UnknownName."""
    return " ".join((getdoc(_kind(kind)) or kind).split("\n\n")[0].split())


def combination_options(kind: str) -> list[str]:
    """The names of its options. Raises UnknownName."""
    return [*combination_parameters(kind)]


def make_combination(kind: str, num_members: int, **options: object) -> Combination:
    """The combination of that name; one that takes `weights` has equal ones by default.

    Raises UnknownName for a name or an option that is not known, InvalidCombination for what cannot be combined so.
    """
    make, allowed = _kind(kind), combination_options(kind)
    for option in options:
        if option not in allowed:
            raise UnknownName(f"option of {kind}", option, allowed)
    if WEIGHTS in allowed:
        options.setdefault(WEIGHTS, [1 / num_members] * num_members)
    try:
        made = make(**options)
    except CospecError:
        raise
    except Exception as error:  # another package's code may raise anything
        raise InvalidCombination(f"{kind} with {shown(options)} cannot be made: {error}") from None
    if not isinstance(made, Combination):
        raise InvalidCombination(f"{kind} makes {shown(made)}, which is no combination; see cospec.Combination")
    return made


def _kind(kind: str) -> Callable[..., object]:
    found = COMBINATIONS.load(kind)
    if not callable(found):
        raise InvalidCombination(f"the combination {kind!r} stands for {found!r}, which makes none")
    return found


def as_combination(combine: object, num_members: int) -> Combination:
    """A combination object; a name, or none, stands for the one of that name, or a mixture, with equal weights.

    Raises UnknownName or InvalidCombination.
    """
    if combine is None or isinstance(combine, str):
        return make_combination(combine or DEFAULT_COMBINATION, num_members)
    if isinstance(combine, type) or not isinstance(combine, Combination):
        raise InvalidCombination(
            f"combine is {shown(combine)}; give cospec.Mixture([...]) or another combination, or a name"
        )
    return combine

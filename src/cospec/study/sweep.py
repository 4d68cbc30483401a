"""A setting varied: the same methods at several values of gamma, of the first member's weight, or of mu."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..core.combine import Combination, Contrastive, Mixture
from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..errors import InvalidBenchmark, UnknownName
from ..schedule import Plan
from .methods import Method, methods


@dataclass(frozen=True)
class Sweep:
    """A setting, by name, and its values."""

    name: str
    values: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> "Sweep":
        """From `mu=0.1,0.3,0.5`. Raises UnknownName, or InvalidBenchmark where the values are no numbers."""
        name, _, listed = text.partition("=")
        if name not in _AT:
            raise UnknownName("setting to vary", name, _AT)
        try:
            values = tuple(float(part) for part in listed.split(","))
        except ValueError:
            raise InvalidBenchmark(f"--vary must be {name}=NUMBER,NUMBER,..., got {text!r}") from None
        if name == "gamma" and any(value < 1 or value != int(value) for value in values):
            raise InvalidBenchmark(f"gamma must be whole numbers of at least 1, got {listed}")
        return cls(name, values)

    def methods(self, ensemble: Ensemble, params: SamplingParams, value: float) -> list[Method]:
        """What is timed at this value, `plain` first. Raises InvalidBenchmark for a combination without the setting."""
        return _AT[self.name](ensemble, params, value)


def _with_gamma(ensemble: Ensemble, params: SamplingParams, value: float) -> list[Method]:
    """Each schedule that drafts so many tokens a turn; the ones named by schedule alone draft by default settings."""
    gamma, drafters = int(value), ensemble.drafter_names
    proposers = drafters or ensemble.member_names[:1]
    plans = [Plan(schedule="fixed", gamma=gamma, proposer=name) for name in proposers]
    plans += [Plan(schedule="mixture", gamma=gamma, proposer=name) for name in drafters]
    plans += [Plan(schedule="alternate", gamma=gamma)] if len(ensemble.member_names) > 1 else []
    found, _ = methods(ensemble, params, plans)
    names = {str(plan): str(replace(plan, gamma=None)) for plan in plans}
    swept = [replace(method, name=names[method.name]) for method in found if method.name in names]
    return [method for method in found if method.name == "plain"] + swept


def _with_weight(ensemble: Ensemble, params: SamplingParams, value: float) -> list[Method]:
    """The first member's weight; the others share the rest as they did."""
    given = ensemble.combination
    if not isinstance(given, Mixture) or len(given.weights) < 2 or not 0 < value < 1:
        raise InvalidBenchmark(f"weight varies a mixture's first member between 0 and 1, got {value} of {given.name}")
    first, *others = given.weights
    rest = [weight * (1 - value) / (1 - first) for weight in others]
    return _scheduled(ensemble, Mixture([value, *rest]), params)


def _with_mu(ensemble: Ensemble, params: SamplingParams, value: float) -> list[Method]:
    if not isinstance(ensemble.combination, Contrastive):
        raise InvalidBenchmark(f"mu belongs to a contrastive combination, and this is {ensemble.combination.name}")
    return _scheduled(ensemble, replace(ensemble.combination, mu=value), params)


def _scheduled(ensemble: Ensemble, combine: Combination, params: SamplingParams) -> list[Method]:
    found, _ = methods(ensemble.with_combination(combine), params, [])
    return [method for method in found if method.plan is not None]


_AT: dict[str, Callable[[Ensemble, SamplingParams, float], list[Method]]] = {
    "gamma": _with_gamma,
    "weight": _with_weight,
    "mu": _with_mu,
}

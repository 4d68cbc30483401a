"""The same methods at several values of a setting: gamma, the first member's weight, or mu."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..core.combine import Combination, Contrastive, Mixture
from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..errors import InvalidBenchmark, UnknownName
from ..schedule import Plan, Setting, schedule_class, schedule_names
from .methods import PlannedMethod, benchmarked, planned
from .results import PLAIN


@dataclass(frozen=True, kw_only=True)
class Variation:
    """The methods at one value of a setting, `plain` among them."""

    setting: str
    value: float
    methods: Sequence[PlannedMethod]

    def label(self, name: str) -> str:
        """What one of these methods is called among a study's measurements."""
        return f"{self.setting}={self.value!r}:{name}"


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

    def variations(self, ensemble: Ensemble, params: SamplingParams, names: Sequence[str]) -> list[Variation]:
        """The methods at each value, limited to those named where there are names.

        Raises InvalidBenchmark for a combination without the setting, or where only `plain` is left.
        """
        return [
            Variation(
                setting=self.name, value=value, methods=of_schedules(_AT[self.name](ensemble, params, value), names)
            )
            for value in self.values
        ]


def of_schedules(available: Sequence[PlannedMethod], names: Sequence[str]) -> list[PlannedMethod]:
    """The methods of these names, or under schedules of these names; all where no names are given.

    Raises InvalidBenchmark where nothing but `plain` is left.
    """
    left = [m for m in available if not names or m.name in names or m.ensemble.plan.name in names]
    if len(left) < 2:
        known = ", ".join(method.name for method in available)
        raise InvalidBenchmark(f"nothing to vary among the methods {', '.join(names)}; here are {known}")
    return left


def _with_gamma(ensemble: Ensemble, params: SamplingParams, value: float) -> list[PlannedMethod]:
    """Plain, and each schedule that `auto` may choose and that takes this gamma; names are those of the plans without
    it."""
    methods, _ = planned(ensemble, {PLAIN: Plan(schedule=PLAIN)}, params)
    for name in schedule_names():
        by_drafters = [Plan(schedule=name, proposer=drafter) for drafter in ensemble.drafter_names]
        for plans in (by_drafters, [Plan(schedule=name)]):
            named = {str(plan): replace(plan, gamma=int(value)) for plan in plans}
            found, _ = planned(ensemble, named if _may_be_chosen(name, ensemble.setting(params)) else {}, params)
            methods += found
            # One that takes no drafter drafts with its members.
            if found:
                break
    return methods


def _may_be_chosen(name: str, setting: Setting) -> bool:
    """Whether `auto` weighs plans of this schedule, which it does not of itself."""
    try:
        return bool(schedule_class(name).candidates(setting))
    except Exception:  # another package's schedule may raise anything, and is listed as skipped
        return False


def _with_weight(ensemble: Ensemble, params: SamplingParams, value: float) -> list[PlannedMethod]:
    """At this weight of the first member; the others share the rest in their own proportions."""
    mixture = ensemble.combination
    if not isinstance(mixture, Mixture) or len(mixture.weights) < 2 or not 0 < value < 1:
        raise InvalidBenchmark(f"weight varies a mixture's first member between 0 and 1, got {value} of {mixture.name}")
    first, *others = mixture.weights
    return _benchmarked(ensemble, Mixture([value, *(weight * (1 - value) / (1 - first) for weight in others)]), params)


def _with_mu(ensemble: Ensemble, params: SamplingParams, value: float) -> list[PlannedMethod]:
    if not isinstance(ensemble.combination, Contrastive):
        raise InvalidBenchmark(f"mu belongs to a contrastive combination, and this is {ensemble.combination.name}")
    return _benchmarked(ensemble, replace(ensemble.combination, mu=value), params)


def _benchmarked(ensemble: Ensemble, combine: Combination, params: SamplingParams) -> list[PlannedMethod]:
    changed = ensemble.with_combination(combine)
    methods, _ = benchmarked(changed, params)
    return methods


_AT: dict[str, Callable[[Ensemble, SamplingParams, float], list[PlannedMethod]]] = {
    "gamma": _with_gamma,
    "weight": _with_weight,
    "mu": _with_mu,
}

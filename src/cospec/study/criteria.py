"""What must hold before an ensemble is rolled out, set before anything is measured."""

from dataclasses import dataclass, field, fields
from pathlib import Path

from ..errors import InvalidPilot, UnknownName
from ..inputs import read_yaml, validated, without_nulls
from .templates import copy_template

# The commented file to start from; what it says is what holds without a file.
TEMPLATE = Path(__file__).parent / "criteria.yaml"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that a percentile over sequences may be; None for no limit."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, kw_only=True)
class Softening:
    """A lossy target that is allowed: λ q + (1 - λ) p.

    target: the member p; None for the first. drafter: the drafter or member q; None for the first drafter that is a
    model. lambdas: the λ that are tried. gamma: drafted tokens a block. margin: how much score (or, without references,
    mean log-probability a token) may be lost.

    Raises InvalidPilot for a value out of its range.
    """

    target: str | None = None
    drafter: str | None = None
    lambdas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7)
    gamma: int = 4
    margin: float = 0.05

    def __post_init__(self) -> None:
        if not self.lambdas or not all(0 < lam < 1 for lam in self.lambdas):
            raise InvalidPilot(f"relaxed: lambdas must lie between 0 and 1, got {list(self.lambdas)}")
        if self.gamma < 1 or self.margin <= 0:
            raise InvalidPilot(
                f"relaxed: gamma must be at least 1 and margin above 0, got {self.gamma} and {self.margin:g}"
            )


@dataclass(frozen=True, kw_only=True)
class Criteria:
    """Each rule is a limit; None for no such rule. Rules named in `optional` are judged and shown, and forbid nothing.
    The defaults hold where no file is given; see `load`.

    planned_concurrency: concurrent sequences in service, at which the rules are judged. min_speedup: of the lower end
    of the interval of the speed of the candidate plan over plain. max_ms_per_token, max_first_token_ms: percentiles
    over sequences. min_acceptance: accepted / proposed of all of its proposers together. exactness: every check of the
    self-test passes. score_margin: its score is equivalent to plain's within it. min_score_gain: of the lower end of
    its score less the best member's. min_perplexity_gain: of the lower end of the best member's perplexity / the
    ensemble's. max_cost_per_million: in the prices' currency, energy included where it is paid for. max_memory_gib:
    weights and caches together.

    Raises InvalidPilot for a value out of its range, UnknownName for an unknown rule in `optional`.
    """

    planned_concurrency: int = 1
    min_speedup: float | None = 1.0
    max_ms_per_token: Limits = field(default_factory=Limits)
    max_first_token_ms: Limits = field(default_factory=Limits)
    min_acceptance: float | None = None
    exactness: bool = True
    score_margin: float | None = 0.1
    min_score_gain: float | None = None
    min_perplexity_gain: float | None = 1.0
    max_cost_per_million: float | None = None
    max_memory_gib: float | None = None
    optional: tuple[str, ...] = ("score_margin", "min_perplexity_gain")
    relaxed: Softening | None = None

    def __post_init__(self) -> None:
        if self.planned_concurrency < 1:
            raise InvalidPilot(f"criteria: planned_concurrency must be at least 1, got {self.planned_concurrency}")
        if self.score_margin is not None and not 0 < self.score_margin <= 1:
            raise InvalidPilot(f"criteria: score_margin must be above 0 and at most 1, got {self.score_margin:g}")
        for name in self.optional:
            if name not in RULES:
                raise UnknownName("rule in `optional`", name, RULES)

    @classmethod
    def load(cls, path: Path) -> "Criteria":
        """From a YAML file, whose rules are those that it writes, null being the same as no line at all.

        Raises InvalidPilot or UnknownName, with the file and the key at fault.
        """
        given = without_nulls(read_yaml(path, InvalidPilot), cls)
        if isinstance(given, dict):
            given = {**NO_RULES, **given, "relaxed": without_nulls(given.get("relaxed"), Softening)}
        return validated(cls, given, str(path), InvalidPilot)


# The values of the default rules in a file that does not write them.
NO_RULES = {"min_speedup": None, "exactness": False, "score_margin": None, "min_perplexity_gain": None, "optional": ()}
RULES = tuple(
    entry.name for entry in fields(Criteria) if entry.name not in ("planned_concurrency", "optional", "relaxed")
)


def write_criteria(path: Path) -> None:
    """Write the template. Raises InvalidPilot for a file that exists, or cannot be written."""
    copy_template(TEMPLATE, path)

"""What must hold before an ensemble is rolled out, set before anything is measured."""

from dataclasses import dataclass, field, fields
from pathlib import Path

from ..errors import InvalidPilot, UnknownName
from .reading import read
from .yaml_file import load_yaml


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that a percentile over texts may be; None: not asked."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, kw_only=True)
class Softening:
    """A lossy target that is allowed: λ q + (1 - λ) p. target: p, a member; the first unless named. drafter: q, a
    drafter or member; the first drafter that is a model unless named. lambdas: those tried. gamma: drafts a block.
    margin: how much score (or, without references, mean log-probability a token) may be lost."""

    target: str | None = None
    drafter: str | None = None
    lambdas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7)
    gamma: int = 4
    margin: float = 0.05

    def __post_init__(self) -> None:
        if not self.lambdas or not all(0 < lam < 1 for lam in self.lambdas):
            raise InvalidPilot(f"relaxed: lambdas must lie between 0 and 1, got {list(self.lambdas)}")
        if self.gamma < 1 or self.margin <= 0:
            raise InvalidPilot("relaxed: gamma must be at least 1 and margin above 0")


@dataclass(frozen=True, kw_only=True)
class Criteria:
    """Each rule is a limit; None: not asked. Rules named in `optional` are judged and shown, and forbid nothing. The
    defaults hold where no file is given; see `load`.

    planned_concurrency: texts at once in service, at which the rules are judged. min_speedup: of the lower end of the
    interval of ours over plain. max_ms_per_token, max_first_token_ms: percentiles over texts. min_acceptance: accepted
    / proposed of all of our proposers together. exactness: every check of the self-test passes. score_margin: our score
    is equivalent to plain's within it. min_score_gain: of the lower end of ours less the best member's score.
    min_perplexity_gain: of the lower end of the best member's perplexity / the ensemble's. max_cost_per_million: in the
    prices' currency, energy included where it is paid for. max_memory_gib: weights and caches together.
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
            raise InvalidPilot(
                f"criteria: planned_concurrency must be at least 1 text at once, got {self.planned_concurrency}"
            )
        if self.score_margin is not None and not 0 < self.score_margin <= 1:
            raise InvalidPilot(f"criteria: score_margin must be above 0 and at most 1, got {self.score_margin:g}")
        for name in self.optional:
            if name not in RULES:
                raise UnknownName("rule in `optional`", name, RULES)

    @classmethod
    def load(cls, path: Path) -> "Criteria":
        """From a YAML file, which asks for nothing but what it writes, null being the same as no line at all.

        Raises InvalidPilot or UnknownName, naming the key at fault.
        """
        given = load_yaml(path)
        if isinstance(given, dict):
            asked = {key: value for key, value in given.items() if value is not None or key not in UNASKED}
            given = UNASKED | asked
        return read(cls, given, str(path))


# What of the defaults a file does not ask for unless it is written there.
UNASKED = {"min_speedup": None, "exactness": False, "score_margin": None, "min_perplexity_gain": None, "optional": ()}
RULES = tuple(
    entry.name for entry in fields(Criteria) if entry.name not in ("planned_concurrency", "optional", "relaxed")
)

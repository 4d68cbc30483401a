"""The results of a study, as its report shows them: the settings, the measurements, and the verdict.

Frozen dataclasses that go to JSON and back. They hold figures and names only, and no sentence of any language, so that
a report can be written in each. A field that is None was not measured. Seconds, bytes and tokens are plain units unless
a name says otherwise; shares and acceptances are between 0 and 1. A "text" is a decoded sequence, or a given text whose
perplexity is measured.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ..errors import InvalidPilot
from ..inputs import validated
from .criteria import Criteria
from .prices import Prices

# The version of this layout.
FORMAT = 2
# The category of all prompts together.
ALL = "all"
# The candidate plan unless the ensemble's file fixes one (see Settings.ours), and the baseline.
OURS, PLAIN = "auto", "plain"
SINGLE = "single:"

# "not shown": the interval lies on both sides of the limit, so that more prompts may settle it either way.
Status = Literal["met", "not met", "not shown", "not measured"]
Decision = Literal["go", "go up to", "no-go", "not decided"]
# Why there is no figure. "no volume": of tokens a month. "no such concurrency": it was not timed. "machine does not
# tell": it reports no energy. "runner does not tell": it reports no memory. "too few": units for an interval. "target
# forbids a text": a given text has probability 0. "not asked": the measurement was not requested.
Reason = Literal[
    "",
    "no references",
    "no texts",
    "no prices",
    "no volume",
    "nothing proposed",
    "no such concurrency",
    "machine does not tell",
    "runner does not tell",
    "too few",
    "target forbids a text",
    "not asked",
]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its 95 % interval.

    mean: the estimate; a geometric mean where it is of ratios. low, high: None where there were too few units.
    num: the independent units of the sample (prompts, or batches of prompts that were decoded together).
    """

    mean: float
    low: float | None
    high: float | None
    num: int

    def side(self, level: float) -> Literal["above", "below", "unsure"]:
        """On which side of the level the whole interval lies."""
        if self.low is None or self.high is None:
            return "unsure"
        return "above" if self.low > level else "below" if self.high < level else "unsure"


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """Of a figure over the decoded sequences."""

    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class PromptInfo:
    """A prompt, without its text. id: its own, or its number from 1. digest: a hash of its text, to recognise it in
    another study. num_tokens: of the prompt, as the first member is given it. where: its file and line. is_chat:
    whether it is messages, which each model reads in its own template.
    """

    id: str
    digest: str
    category: str
    num_tokens: int
    has_reference: bool
    where: str
    is_chat: bool = False


@dataclass(frozen=True, kw_only=True)
class Design:
    """How a study measures and judges.

    ours: the candidate plan: `auto`, or the ensemble's own plan in one line where its file fixes one. prompts_source: a
    file, or `bundled`. tokens: decoded a sequence in the timed runs, past end tokens. temperature: of the timed runs.
    repeats: runs of each method on each unit, whose median counts. concurrencies: of sequences. score_temperature,
    score_tokens: of the scored answers. criteria, prices: as given, or the defaults, in full. command: as typed.
    """

    ours: str
    prompts_source: str
    tokens: int
    temperature: float
    repeats: int
    concurrencies: tuple[int, ...]
    score_temperature: float
    score_tokens: int
    criteria: Criteria
    prices: Prices
    command: str

    def design(self) -> dict[str, Any]:
        """These fields alone, by name."""
        return {entry.name: getattr(self, entry.name) for entry in fields(Design)}


@dataclass(frozen=True, kw_only=True)
class Settings(Design):
    """What the study measured.

    ensemble: its name or file. members, drafters: names. target: the combination as a formula, such as
    `0.5 math + 0.5 general`. verification: token, block or coupled. methods: those timed, in order. score: how answers
    are scored (`exact`, `numeric`, `regex`, `module:function`), with commas between those in use; None without
    references. criteria_source, prices_source: a file, or `default`.
    """

    ensemble: str
    members: tuple[str, ...]
    drafters: tuple[str, ...]
    target: str
    verification: str
    prompts: tuple[PromptInfo, ...]
    methods: tuple[str, ...]
    score: str | None
    criteria_source: str
    prices_source: str

    @property
    def categories(self) -> tuple[str, ...]:
        """In the order of the prompts."""
        return tuple(dict.fromkeys(prompt.category for prompt in self.prompts))


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine that it was measured on.

    versions: of cospec, python, torch, transformers. devices: each member's and drafter's, such as cpu or cuda:0.
    accelerators: names of the GPUs. memory: of the machine, in bytes. started: ISO 8601, UTC. seconds: spent measuring,
    over all runs of a resumed study. spread, held_up, load: of `steadiness.Steadiness`.
    """

    versions: dict[str, str]
    platform: str
    processor: str
    num_cores: int
    threads: int
    devices: dict[str, str]
    dtypes: dict[str, str]
    accelerators: tuple[str, ...]
    memory: int
    started: str
    seconds: float
    spread: float | None = None
    held_up: float | None = None
    load: float | None = None


@dataclass(frozen=True, kw_only=True)
class SpeedRow:
    """One method at one concurrency on one category (`all`: on all).

    tokens_per_second: of all concurrent sequences together. ms_per_token: a sequence's seconds / its tokens x 1000,
    over sequences. first_token_ms: from the start to the first token. over_plain: how many times faster than `plain`,
    geometric mean of the paired ratios, None for plain itself.
    """

    method: str
    concurrency: int
    category: str
    num_texts: int
    tokens_per_second: float
    ms_per_token: Percentiles
    first_token_ms: Percentiles
    over_plain: Interval | None


@dataclass(frozen=True, kw_only=True)
class Speed:
    """pays_up_to: method -> the highest concurrency up to which the interval of its speed over plain lay above 1 at
    every level measured; 0 where it did not at the lowest. best: of what decodes the ensemble
    the fastest at the planned concurrency; ours unless another is faster by its whole interval. best_plan: its plan in
    one line, of auto the one that it had settled on."""

    rows: tuple[SpeedRow, ...]
    pays_up_to: dict[str, int]
    best: str
    best_plan: str

    def row(self, method: str, concurrency: int, category: str = ALL) -> SpeedRow | None:
        """That row, if it was measured."""
        wanted = (method, concurrency, category)
        return next((row for row in self.rows if (row.method, row.concurrency, row.category) == wanted), None)


@dataclass(frozen=True, kw_only=True)
class ProposerRow:
    """A proposer's drafts. acceptance = accepted / proposed; drafts behind a rejected one count as neither.

    acceptance_at: the same by position in a block of drafts. proposed_at: drafts that were verified there.
    """

    name: str
    proposed: int
    accepted: int
    acceptance: float
    acceptance_at: tuple[float, ...]
    proposed_at: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LaneRow:
    """The forward passes of a member, or of a drafter that is no member. share: of the seconds in all models."""

    name: str
    is_drafter: bool
    calls_per_100_tokens: float
    seconds_per_100_tokens: float
    share: float


@dataclass(frozen=True, kw_only=True)
class MechanismRow:
    """The causes of a method's speed at one concurrency.

    block_efficiency: tokens emitted per round of verification, which is one forward pass of each member: tokens x
    members / forward passes of members. 1 for plain. bottleneck: the lane with the largest share.
    share_outside_models: of all seconds. theory_over_plain: the speed predicted from the measured costs and
    acceptances. measured_over_plain: the speed by the clock. plans: of `auto`, the number of sequences that ended under
    each plan.
    """

    method: str
    concurrency: int
    proposers: tuple[ProposerRow, ...]
    lanes: tuple[LaneRow, ...]
    block_efficiency: float
    bottleneck: str
    share_outside_models: float
    theory_over_plain: float | None
    measured_over_plain: float | None
    plans: dict[str, int]

    @property
    def acceptance(self) -> float | None:
        """Accepted / proposed of all proposers together; None where nothing was proposed."""
        proposed = sum(each.proposed for each in self.proposers)
        return sum(each.accepted for each in self.proposers) / proposed if proposed else None


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """A row for each method that cospec decodes, and concurrency."""

    rows: tuple[MechanismRow, ...]

    def row(self, method: str, concurrency: int) -> MechanismRow | None:
        """That row, if it was measured."""
        return next((row for row in self.rows if (row.method, row.concurrency) == (method, concurrency)), None)


@dataclass(frozen=True, kw_only=True)
class DifferenceRow:
    """Where a sequence first differs from plain's. gap: between the two best tokens there, in log-probability; None
    where the target allows only one. is_tie: the gap is of the size of rounding; else it is a fault.
    """

    prompt: str
    position: int
    gap: float | None
    is_tie: bool


@dataclass(frozen=True, kw_only=True)
class CheckRow:
    """A check of the exactness self-test. name: coupled text, greedy text or sampled text. error: of a failed sequence.

    num_texts, num_equal: of the two equality checks. num_samples, p_value, threshold: of the sampled one, which fails
    if the lowest p-value is below the threshold.
    """

    name: str
    schedule: str
    verification: str
    is_passed: bool
    num_texts: int | None
    num_equal: int | None
    num_samples: int | None
    p_value: float | None
    threshold: float | None
    differences: tuple[DifferenceRow, ...]
    error: str | None


@dataclass(frozen=True, kw_only=True)
class ScoreComparison:
    """Scores of ours and plain on the same prompts. difference: ours - plain, paired by prompt.

    margin: of equivalence, from the criteria. p_value: of the hypothesis that they differ by the margin or more (the
    larger of two one-sided tests). is_equivalent: p_value <= 0.05; None without a margin.
    """

    ours: float
    plain: float
    difference: Interval
    margin: float | None
    p_value: float | None
    is_equivalent: bool | None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Greedy sequences of all schedules: how many equal plain's, or first differ in a tie, or in a fault."""

    num_texts: int
    num_equal: int
    num_ties: int
    num_faults: int


@dataclass(frozen=True, kw_only=True)
class QualityKept:
    """Whether the output equals plain's. is_exact: every check passed; None while
    some are left to run."""

    checks: tuple[CheckRow, ...]
    is_exact: bool | None
    greedy: Agreement | None
    score: ScoreComparison | None
    score_reason: Reason


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """Mean score of one method on one category: `single:NAME`, `plain` or `auto`."""

    method: str
    category: str
    score: Interval


@dataclass(frozen=True, kw_only=True)
class PerplexityRow:
    """exp(-mean log-probability a token) of given texts after their prompts. method: `single:NAME` or `ensemble`."""

    method: str
    category: str
    num_texts: int
    num_tokens: int
    perplexity: float


@dataclass(frozen=True, kw_only=True)
class QualityGained:
    """Whether the ensemble is better than its best single member.

    best_by_score, best_by_perplexity: member names. score_gain: ours - best member, paired. perplexity_gain: best
    member's perplexity / the ensemble's, over all tokens, its interval over texts; above 1 the ensemble is better.
    texts_source: `references` of the prompts, the file of texts, or both; None for neither.
    """

    scores: tuple[ScoreRow, ...]
    best_by_score: str | None
    score_gain: Interval | None
    score_reason: Reason
    perplexities: tuple[PerplexityRow, ...]
    best_by_perplexity: str | None
    perplexity_gain: Interval | None
    perplexity_reason: Reason
    texts_source: str | None


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """The cost of a million tokens. money: machines' price an hour / tokens an hour x 10^6, without energy.

    kwh: of the packages or cards whose counters were read. energy_money: kwh x the price of electricity. total: of
    both; None where either is paid for and unknown.
    """

    method: str
    concurrency: int
    tokens_per_second: float
    money: float | None
    kwh: float | None
    energy_money: float | None
    total: float | None

    @property
    def reason(self) -> Reason:
        """Why there is no total."""
        return "" if self.total is not None else "no prices" if self.money is None else "machine does not tell"


@dataclass(frozen=True, kw_only=True)
class MemoryRow:
    """A member's or drafter's memory. weights: of those that no row before holds, as an adapter's beside its base's.
    cache: of its keys and values, the most that was allocated in any run. shares_with: the member whose weights it
    shares; they count once, with that one."""

    name: str
    is_drafter: bool
    weights: int | None
    cache: int | None
    device: str
    shares_with: str | None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """energy_source: `rapl`, `nvml` or None. peak_memory: of the process, in bytes.

    memory_total: of all members and drafters together, in bytes. saving_per_month: at the stated volume and the planned
    concurrency, plain's cost less ours.
    """

    rows: tuple[CostRow, ...]
    energy_source: str | None
    memory: tuple[MemoryRow, ...]
    memory_total: int | None
    peak_memory: int
    saving_per_month: float | None
    saving_reason: Reason

    def row(self, method: str, concurrency: int) -> CostRow | None:
        """That row, if it was measured."""
        return next((row for row in self.rows if (row.method, row.concurrency) == (method, concurrency)), None)


@dataclass(frozen=True, kw_only=True)
class RelaxedRow:
    """One softening. lam: λ. quality: mean score, or mean log-probability a token of the given texts.

    difference: quality - that of λ = 0, paired. is_within: the whole interval lies above -margin.
    over_exact: how many times faster than λ = 0, which is exact speculative decoding of the target alone.
    """

    lam: float
    quality: Interval
    difference: Interval | None
    is_within: bool
    acceptance: float | None
    tokens_per_second: float
    over_exact: Interval | None


@dataclass(frozen=True, kw_only=True)
class Relaxed:
    """Single-model speculative decoding softened to λ q + (1 - λ) p. target: p. drafter: q. gamma: drafts a block.

    measure: `score` or `log-probability`. chosen: the largest λ up to which all are within the margin. distribution:
    that its output follows, as a formula.
    """

    target: str
    drafter: str
    gamma: int
    measure: Literal["score", "log-probability"]
    margin: float
    rows: tuple[RelaxedRow, ...]
    chosen: float
    distribution: str


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A criterion and its outcome. name: its key in the criteria, with the percentile where it has several
    (`max_ms_per_token.p95`). limit: as given, None for exactness. value: the figure compared with it; low, high: its
    interval (a minimum applies to the lower end). unit: x (times), ms, share, score, money, GiB, or none.
    reason: why it was not measured."""

    name: str
    is_required: bool
    limit: float | None
    value: float | None
    low: float | None
    high: float | None
    unit: Literal["x", "ms", "share", "score", "money", "GiB", ""]
    status: Status
    reason: Reason


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """GO only if all required rules are met at the planned concurrency; `go up to` a lower one at which they are met.
    NO-GO if a required rule is not met there; not decided if all that stands in the way is what was not shown or not
    measured, or if the study is not finished.

    up_to: the highest concurrency measured at which, and below which, they are met; 0 for none. rules: at the planned
    concurrency. blocking, unshown, unmeasured: required rules of that status.
    """

    decision: Decision
    concurrency: int
    up_to: int
    rules: tuple[Rule, ...]
    blocking: tuple[str, ...]
    unmeasured: tuple[str, ...]
    unshown: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One timed run: a method decoding a batch of prompts of one category.

    concurrency: sequences of a full batch. batch, repeat: their numbers. prompts: indices in the settings' list.
    first_token_seconds, text_seconds: of each sequence. joules: None where the machine reports no energy.
    """

    method: str
    concurrency: int
    batch: int
    repeat: int
    category: str
    prompts: tuple[int, ...]
    tokens: int
    seconds: float
    first_token_seconds: tuple[float, ...]
    text_seconds: tuple[float, ...]
    joules: float | None


@dataclass(frozen=True, kw_only=True)
class Results:
    """The whole study. relaxed: None unless the criteria allow a lossy target. measurements: the raw timings."""

    format: int
    settings: Settings
    environment: Environment
    verdict: Verdict
    speed: Speed
    mechanism: Mechanism
    kept: QualityKept
    gained: QualityGained
    cost: Cost
    relaxed: Relaxed | None
    measurements: tuple[Measurement, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], where: str = "results") -> "Results":
        """From the output of `to_dict`. Raises InvalidPilot or UnknownName for anything else."""
        if value.get("format") != FORMAT:
            raise InvalidPilot(
                f"{where} is in format {value.get('format')!r}, and this version reads {FORMAT}; run the pilot again"
            )
        return validated(cls, value, where, InvalidPilot)

    @classmethod
    def load(cls, path: Path) -> "Results":
        """From a results.json. Raises InvalidPilot for any other file."""
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidPilot(f"no results of a pilot can be read from {str(path)!r}: {error}") from None
        if not isinstance(value, dict):
            raise InvalidPilot(f"{path} holds no results of a pilot; give the results.json that it wrote")
        return cls.from_dict(value, str(path))

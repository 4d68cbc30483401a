"""The benchmark: every method on the same prompts, one at a time, several at once, and at varied settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from ..core.counts import Counts
from ..ensemble import Prompt
from ..errors import InvalidBenchmark
from .batches import Batch
from .intervals import ratio
from .ledger import Ledger, at
from .methods import Method, PlannedMethod
from .results import ALL, PLAIN, Measurement
from .speeds import seconds_per_token
from .steadiness import steadiness
from .sweep import Variation
from .timing import Failures, PairedTiming, Predict, Step, Study, has_failed, no_theory

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Benchmark(Study):
    """What is measured, and the ledger that it goes to.

    levels: numbers of prompts that are decoded at once. variations: methods at values of a setting. predict: what
    theory predicts of `methods`, one prompt at a time. failures: methods that raised or failed as they ran; a resumed
    run tries them again.
    """

    ledger: Ledger
    methods: Sequence[Method]
    prompts: Sequence[Prompt]
    repeats: int
    levels: Sequence[int] = ()
    variations: Sequence[Variation] = ()
    predict: Predict = no_theory
    failures: Failures = field(default_factory=dict)

    def steps(self) -> list[Step]:
        each = [Batch(number, ALL, (number,)) for number in range(len(self.prompts))]
        steps = replace(self._timing(self.methods, each), predict=self.predict).steps("speed")
        for variation in self.variations:
            labelled = [replace(method, name=variation.label(method.name)) for method in variation.methods]
            steps += self._timing(labelled, each).steps(f"{variation.setting} {variation.value:g}")
        # One at once is the first prompt's timing above.
        for level in (level for level in self.levels if level > 1):
            batch = Batch(0, ALL, tuple(i % len(self.prompts) for i in range(level)))
            steps += self._timing(self._batched, [batch], level).steps(f"{level} at once")
        return steps

    @property
    def _batched(self) -> list[Method]:
        """Methods that decode several prompts at once."""
        return [method for method in self.methods if isinstance(method, PlannedMethod)]

    def _timing(self, methods: Sequence[Method], batches: Sequence[Batch], concurrency: int = 1) -> PairedTiming:
        return PairedTiming(
            ledger=self.ledger,
            methods=methods,
            prompts=self.prompts,
            batches=batches,
            concurrency=concurrency,
            repeats=self.repeats,
            error_type=InvalidBenchmark,
            failures=self.failures,
        )

    def figures(self, skipped: Mapping[str, str]) -> dict[str, Any]:
        """What the measurements so far come to, ready for JSON.

        skipped: methods that were known not to run -> the reason; those that failed are added to them.
        """
        failed = {
            f"{name}, {level} at once" if level > 1 else name: reason for (name, level), reason in self.failures.items()
        }
        sweeps: dict[str, dict[float, dict[str, Any]]] = {}
        for variation in sorted(self.variations, key=lambda each: each.value):
            over = {
                method.name: self._over_plain(variation.label(method.name), variation.label(PLAIN))
                for method in variation.methods
                if method.name != PLAIN
            }
            sweeps.setdefault(variation.setting, {})[variation.value] = over
        steady = steadiness(self.ledger.measurements)
        return {
            "settings": self.ledger.settings,
            "skipped": {**skipped, **failed},
            "steadiness": {**vars(steady), "disturbance": steady.disturbance},
            "methods": {method.name: row for method in self.methods if (row := self._row(method.name))},
            "concurrency": self._by_level() if self.levels else {},
            "sweeps": sweeps,
        }

    def _row(self, name: str) -> dict[str, Any]:
        """A method's figures, one prompt at a time; empty before it was measured, and where it failed on a prompt."""
        key = at(name, 1)
        seconds = seconds_per_token(self._alone, name)
        if not seconds or has_failed(self.failures, name, 1):
            return {}
        return {
            "tokens_per_second": len(seconds) / sum(seconds.values()),
            "over_plain": self._over_plain(name, PLAIN),
            "theory_over_plain": self.ledger.theory.get(key),
            **(count_figures(self.ledger.counts[key]) if key in self.ledger.counts else {}),
            "peak_memory_mib": {where: held // MIB for where, held in self.ledger.peaks.get(key, {}).items()},
        }

    @property
    def _alone(self) -> list[Measurement]:
        """The runs of one prompt at a time."""
        return [run for run in self.ledger.measurements if run.concurrency == 1]

    def _over_plain(self, name: str, plain: str) -> dict[str, float | None] | None:
        """How many times faster than plain, paired by prompt; None before both were measured on a prompt."""
        own, other = (
            {} if has_failed(self.failures, each, 1) else seconds_per_token(self._alone, each) for each in (name, plain)
        )
        shared = sorted(own.keys() & other.keys())
        return vars(ratio([other[i] for i in shared], [own[i] for i in shared])) if shared else None

    def _by_level(self) -> dict[str, dict[int, float]]:
        """Method -> prompts at once -> tokens a second of all together, the median of the repeats."""
        by_level: dict[str, dict[int, float]] = {}
        for method in self._batched:
            for level in (level for level in self.levels if not has_failed(self.failures, method.name, level)):
                speeds = [run.tokens / run.seconds for run in self.ledger.runs(method.name, level) if run.batch == 0]
                if speeds:
                    by_level.setdefault(method.name, {})[level] = median(speeds)
        return by_level


def count_figures(counts: Counts) -> dict[str, Any]:
    """accepted / proposed, in all and by place in a block; tokens for each block of drafts; forward passes for 100
    tokens; and the share of time outside forward passes."""
    num_blocks = sum(drafts.blocks for drafts in counts.proposers.values())
    return {
        "acceptance": {
            name: drafts.acceptance for name, drafts in counts.proposers.items() if drafts.acceptance is not None
        },
        "acceptance_by_place": {
            name: [a / p if p else None for a, p in zip(drafts.accepted_at, drafts.proposed_at, strict=True)]
            for name, drafts in counts.proposers.items()
        },
        "tokens_per_block": counts.tokens / num_blocks if num_blocks else None,
        "calls_per_100_tokens": {name: 100 * lane.calls / counts.tokens for name, lane in counts.lanes.items()},
        "share_outside_models": 1 - counts.seconds_in_models / counts.seconds,
        "plans": counts.plans,
    }

"""A study as a reader of one language sees it: the names and figures that every section needs."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..results import (
    ALL,
    PLAIN,
    SINGLE,
    CheckRow,
    CostRow,
    Interval,
    MechanismRow,
    Percentiles,
    Reason,
    Relaxed,
    Results,
    SpeedRow,
)
from ..steadiness import MOST_HELD_UP, MOST_SPREAD, steadiness_told
from .filters import amount, money, p_value, percent, size, times
from .texts import Texts


@dataclass(frozen=True, kw_only=True)
class View:
    study: Results
    say: Texts

    @property
    def ours(self) -> str:
        """The candidate plan."""
        return self.study.settings.ours

    @property
    def planned(self) -> int:
        """Concurrent sequences in service."""
        return self.study.verdict.concurrency

    # Names.

    def at_once(self, num: int) -> str:
        """A number of concurrent sequences."""
        return self.say("word.at once", {"num": num})

    def method(self, name: str) -> str:
        if name.startswith(SINGLE):
            return self.say("method.single", {"name": name.removeprefix(SINGLE)})
        return self.known("method", name)

    def category(self, name: str) -> str:
        return self.known("category", name)

    def known(self, group: str, name: str) -> str:
        """The words for a name of cospec's own; a name that a file gave stays as it is."""
        key = f"{group}.{name}"
        return self.say(key) if key in self.say.table else name

    def colour(self, method: str) -> str:
        """One for the candidate plan, one for the others, and grey for what they are compared with."""
        is_background = method == PLAIN or method.startswith(SINGLE)
        return "c0" if method == self.ours else "neutral" if is_background else "c1"

    def lane_colour(self, name: str) -> str:
        """A member's or drafter's; other colours than those of methods."""
        names = [*self.study.settings.members, *self.study.settings.drafters]
        return f"c{2 + names.index(name) % 5}" if name in names else "neutral"

    def listed(self, names: list[str]) -> str:
        return self.say("word.comma").join(names)

    def columns(self, key: str) -> list[str]:
        """The titles of a table, which stand between bars."""
        return [title.strip() for title in self.say(key).split("|")]

    def formulas(self, *keys: str) -> list[str]:
        """How the figures of a section are computed."""
        return [self.say(f"formula.{key}") for key in keys]

    # Figures.

    def missing(self, reason: Reason = "") -> str:
        """That a figure was not measured, and why, where that is known."""
        if not reason:
            return self.say("word.not measured")
        return self.say("word.not measured because", {"reason": self.say(f"reason.{reason}")})

    def range(self, found: Interval, written: Callable[[float], str] = times, word: str = "range") -> str:
        """The 95 % interval of an estimate. word: `interval` where no title says that it is one."""
        if found.low is None or found.high is None:
            return self.say("word.no interval", {"num": found.num})
        return self.say(f"word.{word}", {"low": written(found.low), "high": written(found.high)})

    def interval(self, found: Interval | None, written: Callable[[float], str] = times) -> str:
        """An estimate with its interval."""
        return f"{written(found.mean)} ({self.range(found, written)})" if found else "–"

    def money(self, value: float | None) -> str:
        return "–" if value is None else money(value, self.study.settings.prices.currency)

    def percentiles(self, found: Percentiles) -> str:
        return " / ".join(amount(value) for value in (found.p50, found.p95, found.p99))

    # Speed.

    @property
    def timing(self) -> dict[str, object]:
        """How speeds were measured. num: prompts that were timed at the planned concurrency."""
        settings = self.study.settings
        runs = [run for run in self.study.measurements if run.concurrency == self.planned]
        return {
            "num": len({index for run in runs for index in run.prompts}),
            "tokens": settings.tokens,
            "repeats": settings.repeats,
            "temperature": f"{settings.temperature:g}",
        }

    @property
    def levels(self) -> list[int]:
        """The concurrencies that were timed."""
        return sorted({row.concurrency for row in self.study.speed.rows})

    def speeds(self, *, is_overall: bool) -> list[SpeedRow]:
        """Rows over all categories together, or of each category."""
        return [row for row in self.study.speed.rows if (row.category == ALL) == is_overall]

    @property
    def speeds_here(self) -> list[SpeedRow]:
        return [row for row in self.speeds(is_overall=True) if row.concurrency == self.planned]

    @property
    def own_by_category(self) -> list[SpeedRow]:
        """Rows of the candidate plan at the planned concurrency."""
        rows = [row for row in self.speeds(is_overall=False) if row.concurrency == self.planned]
        return [row for row in rows if row.method == self.ours and row.over_plain]

    @property
    def compared(self) -> list[str]:
        """Methods with speeds by category, without plain."""
        rows = self.speeds(is_overall=False)
        return list(dict.fromkeys(row.method for row in rows if row.method != PLAIN))

    @property
    def category_levels(self) -> list[tuple[str, int]]:
        return list(dict.fromkeys((row.category, row.concurrency) for row in self.speeds(is_overall=False)))

    @property
    def has_speeds_by_concurrency(self) -> bool:
        rows = self.speeds(is_overall=True)
        return any(row.over_plain for row in rows if not row.method.startswith(SINGLE))

    # Mechanism and cost.

    @property
    def mechanisms(self) -> list[MechanismRow]:
        """Of the methods that decode the ensemble."""
        return [row for row in self.study.mechanism.rows if not row.method.startswith(SINGLE)]

    @property
    def mechanisms_here(self) -> list[MechanismRow]:
        """At the planned concurrency, or all where none was timed there."""
        rows = self.mechanisms
        return [row for row in rows if row.concurrency == self.planned] or rows

    def mechanism(self, row: MechanismRow) -> dict[str, object]:
        plans = [self.say("word.texts", {"name": name, "num": num}) for name, num in row.plans.items()]
        return {
            "ours": self.method(row.method),
            "tokens": f"{row.block_efficiency:.2f}",
            "name": row.bottleneck,
            "share": percent(max((lane.share for lane in row.lanes), default=0.0)),
            "outside": percent(row.share_outside_models),
            "plans": self.listed(plans),
        }

    def cost_key(self, row: CostRow) -> str:
        """By which the page's script finds the figures of a row."""
        return f"{row.method}@{row.concurrency}"

    @property
    def costs_here(self) -> list[CostRow]:
        return [row for row in self.study.cost.rows if row.concurrency == self.planned]

    @property
    def saving(self) -> str:
        saved = self.study.cost.saving_per_month
        if saved is None:
            return self.say("cost.no saving", {"reason": self.missing(self.study.cost.saving_reason)})
        values = {"amount": self.money(abs(saved)), "planned": self.at_once(self.planned)}
        return self.say("cost.saving" if saved >= 0 else "cost.loss", values)

    # Quality, and the setting.

    @property
    def tested(self) -> str:
        """Which plans the self-test compared with plain, and under which verifications."""
        checks = self.study.kept.checks
        # A plan's name may have a comma.
        return self.say(
            "kept.tested",
            {
                "plans": " · ".join(dict.fromkeys(check.schedule for check in checks)),
                "verifications": " · ".join(dict.fromkeys(check.verification for check in checks)),
            },
        )

    @property
    def exactness(self) -> tuple[str, str]:
        """What the self-test found, in a sentence, and its tone."""
        kept = self.study.kept
        if kept.is_exact is False:
            return self.say("kept.not exact"), "bad"
        key, tone = ("kept.exact", "good") if kept.is_exact else ("kept.unfinished", "unknown")
        return self.say(key, {"num": len(kept.checks)}), tone

    def check_result(self, check: CheckRow) -> str:
        """What a check of the self-test found."""
        if check.p_value is not None and check.threshold is not None:
            p, threshold = p_value(check.p_value), p_value(check.threshold)
            return self.say("kept.sampled", {"p": p, "threshold": threshold, "num": check.num_samples})
        if check.num_texts is None:
            return "–"
        return self.say("kept.equal", {"equal": check.num_equal, "num": check.num_texts})

    def relaxed(self, found: Relaxed) -> dict[str, object]:
        return {
            "target": found.target,
            "drafter": found.drafter,
            "gamma": found.gamma,
            "margin": f"{found.margin:g}",
            "lam": f"{found.chosen:g}",
            "distribution": found.distribution,
            "measure": self.say(f"relaxed.{found.measure}"),
        }

    def relaxed_floor(self, found: Relaxed) -> float | None:
        """The least quality that the margin allows; None where it allows any, since no score lies below 0."""
        floor = found.rows[0].quality.mean - found.margin
        return floor if floor > 0 or found.measure != "score" else None

    @property
    def asked(self) -> Iterator[tuple[str, str]]:
        """The settings of the study, each with its name."""
        settings, speed = self.study.settings, self.study.speed
        plan = f" ({speed.best_plan})" if speed.best_plan not in ("", speed.best) else ""
        scoring = {
            "name": settings.score,
            "temperature": f"{settings.score_temperature:g}",
            "tokens": settings.score_tokens,
        }
        yield "ensemble", settings.ensemble
        yield "target", f"r = {settings.target}"
        yield "members", self.listed([*settings.members])
        yield "drafters", self.listed([*settings.drafters]) or "–"
        yield "verification", settings.verification
        yield "candidate", self.method(settings.ours)
        yield "best", self.method(speed.best) + plan
        yield "concurrencies", self.listed([str(num) for num in settings.concurrencies])
        yield "score", self.say("setting.scoring", scoring) if settings.score else self.missing("no references")
        yield "prompts source", self._source(settings.prompts_source)
        num_chats = sum(prompt.is_chat for prompt in settings.prompts)
        if num_chats:
            yield "chats", self.say("setting.as chats", {"num": num_chats, "total": len(settings.prompts)})
        yield "criteria", self._source(settings.criteria_source)
        yield "prices", self._source(settings.prices_source)
        yield "texts", self._source(self.study.gained.texts_source or "–")

    def _source(self, names: str) -> str:
        return self.listed([self.known("source", name) for name in names.split(", ")])

    @property
    def disturbance(self) -> str | None:
        """What says that something else used the machine while it was measured; None where nothing does."""
        found = steadiness_told(self.study.environment)
        if found.spread is None or found.held_up is None or found.disturbance is None:
            return None
        quiet = {"most": times(MOST_SPREAD), "most_held_up": times(MOST_HELD_UP)}
        return self.say("speed.disturbed", {"spread": times(found.spread), "held_up": times(found.held_up), **quiet})

    @property
    def machine(self) -> Iterator[tuple[str, str]]:
        found, say = self.study.environment, self.say
        devices = [f"{name}: {device}, {found.dtypes.get(name, '–')}" for name, device in found.devices.items()]
        cores = {"name": found.processor, "num": found.num_cores, "threads": found.threads}
        yield "started", found.started or self.missing()
        yield "duration", say("setting.minutes", {"num": f"{found.seconds / 60:.1f}"})
        yield "processor", say("setting.cores", cores)
        yield "accelerators", self.listed([*found.accelerators]) or say("word.none")
        yield "memory", size(found.memory)
        yield "devices", "; ".join(devices)
        yield "platform", found.platform
        yield "versions", self.listed([f"{name} {version}" for name, version in found.versions.items()])

    @property
    def prompts(self) -> Iterator[tuple[str, int, int, float]]:
        """Category, prompts, those with a reference, and the mean number of tokens."""
        prompts = self.study.settings.prompts
        for category, num in Counter(prompt.category for prompt in prompts).items():
            own = [prompt for prompt in prompts if prompt.category == category]
            yield category, num, sum(p.has_reference for p in own), sum(p.num_tokens for p in own) / num

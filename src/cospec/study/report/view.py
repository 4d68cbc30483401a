"""A study as a reader of one language sees it: the names and figures that every section needs."""

from collections.abc import Callable
from dataclasses import dataclass

from ..results import PLAIN, SINGLE, Interval, Reason, Results
from .blocks import Cell, Formula, Tone
from .numbers import times
from .texts import Texts


@dataclass(frozen=True, kw_only=True)
class View:
    study: Results
    say: Texts

    @property
    def ours(self) -> str:
        return self.study.settings.ours

    @property
    def planned(self) -> int:
        """Texts at once in service."""
        return self.study.verdict.concurrency

    @property
    def currency(self) -> str:
        return self.study.settings.prices.currency

    def at_once(self, num: int) -> str:
        """So many texts."""
        return self.say("word.one at once" if num == 1 else "word.at once", {"num": num})

    def method(self, name: str) -> str:
        """A method in words."""
        if name.startswith(SINGLE):
            return self.say("method.single", {"name": name.removeprefix(SINGLE)})
        known = f"method.{name}"
        return self.say(known) if known in self.say.table else name

    def category(self, name: str) -> str:
        """Of prompts: as their file calls it, or, of those that cospec names, in words."""
        known = f"category.{name}"
        return self.say(known) if known in self.say.table else name

    def colour(self, name: str) -> str:
        """Ours and alternate have one; all else is background."""
        return "c0" if name == self.ours else "neutral" if name == PLAIN or name.startswith(SINGLE) else "c1"

    def lane_colour(self, name: str) -> str:
        """Of a member or drafter: other ones than the methods have."""
        names = [*self.study.settings.members, *self.study.settings.drafters]
        return f"c{2 + names.index(name) % 5}" if name in names else "neutral"

    def missing(self, reason: Reason = "") -> str:
        """That it was not measured, and why, where that is known."""
        if not reason:
            return self.say("word.not measured")
        return self.say("word.not measured because", {"reason": self.say(f"reason.{reason}")})

    def range(self, found: Interval, written: Callable[[float], str] = times) -> str:
        """Its 95 % interval alone."""
        if found.low is None or found.high is None:
            return self.say("word.no interval", {"num": found.num})
        return self.say("word.range", {"low": written(found.low), "high": written(found.high)})

    def interval(self, found: Interval | None, written: Callable[[float], str] = times) -> str:
        """An estimate with its interval, or that there is none."""
        return f"{written(found.mean)} ({self.range(found, written)})" if found else "–"

    def estimate(self, found: Interval | None, written: Callable[[float], str] = times, tone: Tone = "") -> Cell:
        """An estimate above its interval."""
        return Cell(text=written(found.mean), below=self.range(found, written), tone=tone) if found else Cell(text="–")

    def formulas(self, *keys: str) -> Formula:
        """How a section's figures come about."""
        return Formula(lines=tuple(self.say(f"formula.{key}") for key in keys))

    def listed(self, names: list[str]) -> str:
        return self.say("word.comma").join(names)

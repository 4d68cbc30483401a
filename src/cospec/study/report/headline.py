"""The verdict of a study in words: the decision, the four figures behind it, and the rules one by one."""

from dataclasses import dataclass

from ..results import PLAIN, SINGLE, Reason, Rule
from ..verdict import gain
from .filters import amount, percent, signed, times
from .view import View

TONES = {"go": "good", "go up to": "unknown", "no-go": "bad", "not decided": "unknown"}
RULE_TONES = {"met": "good", "not met": "bad", "not shown": "unknown", "not measured": "unknown"}
GAIN_TONES = {"gained": "good", "not shown": "unknown", "worse": "bad", "not measured": "unknown"}


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A headline figure. says: the same in a sentence. hook, says_hook: by which the page's script finds them."""

    label: str
    figure: str
    says: str
    tone: str = ""
    hook: str = ""
    says_hook: str = ""


@dataclass(frozen=True)
class Headline:
    view: View

    # The decision.

    @property
    def tone(self) -> str:
        return TONES[self.view.study.verdict.decision]

    @property
    def decision(self) -> str:
        found = self.view.study.verdict
        return self.view.say(f"verdict.{found.decision}", {"up_to": self.view.at_once(found.up_to)})

    @property
    def says(self) -> list[str]:
        """The decision in sentences."""
        found = self.view.study.verdict
        if found.decision == "not decided" and (self.unfinished or not (found.unshown or found.unmeasured)):
            return [self.view.say("verdict.says unfinished")]
        others = {"unshown": found.unshown, "unmeasured": found.unmeasured}
        unmet = found.blocking if found.decision == "no-go" else (*found.blocking, *found.unshown, *found.unmeasured)
        says = [self._say(f"says {found.decision}", unmet)]
        if found.decision == "go" and found.up_to > found.concurrency:
            says.append(self._say("says also"))
        if found.decision in ("no-go", "not decided"):
            says += [self._say(key, rules) for key, rules in others.items() if rules]
        return says

    def _say(self, key: str, rules: tuple[str, ...] = ()) -> str:
        view, found = self.view, self.view.study.verdict
        values = {
            "planned": view.at_once(found.concurrency),
            "up_to": view.at_once(found.up_to),
            "num": sum(rule.is_required for rule in found.rules),
            "rules": view.listed([self.title(name) for name in rules]),
        }
        return view.say(f"verdict.{key}", values)

    @property
    def gain(self) -> tuple[list[str], str]:
        """Whether the ensemble is better than its best member, in sentences, and their tone."""
        view, gained = self.view, self.view.study.gained
        side = gain(gained)
        name = gained.best_by_perplexity if gained.perplexity_gain else gained.best_by_score
        says = [view.say("verdict.gained" if side == "gained" else f"verdict.gain {side}", {"name": name})]
        alone, ours = (view.study.speed.row(method, view.planned) for method in (f"{SINGLE}{name}", view.ours))
        if side in ("not shown", "worse") and alone and ours and alone.tokens_per_second > ours.tokens_per_second:
            over = times(alone.tokens_per_second / ours.tokens_per_second)
            says.append(view.say("verdict.gain alone", {"name": name, "times": over}))
        return says, GAIN_TONES[side]

    @property
    def unfinished(self) -> list[str]:
        """Methods and concurrencies without a timing, and the self-test if it did not run."""
        view, settings = self.view, self.view.study.settings
        untimed = [
            view.say("word.at", {"name": view.method(method), "at": view.at_once(level)})
            for level in settings.concurrencies
            for method in settings.methods
            if view.study.speed.row(method, level) is None
        ]
        return untimed + ([] if view.study.kept.checks else [view.say("kept.checks")])

    # The four figures.

    @property
    def tiles(self) -> tuple[Tile, ...]:
        return self._speed, self._exactness, self._gain, self._cost

    @property
    def _speed(self) -> Tile:
        view, say = self.view, self.view.say
        row = view.study.speed.row(view.ours, view.planned)
        over = row.over_plain if row else None
        if over is None:
            return Tile(label=say("tile.speed"), figure="–", says=view.missing(), tone="unknown")
        values = {"ours": view.method(view.ours), "times": times(over.mean), "range": view.range(over, word="interval")}
        return Tile(label=say("tile.speed"), figure=times(over.mean), says=say(f"tile.speed {over.side(1)}", values))

    @property
    def _exactness(self) -> Tile:
        view, kept = self.view, self.view.study.kept
        label = view.say("tile.exact")
        if kept.is_exact is None:
            return Tile(label=label, figure="–", says=view.missing("not asked"), tone="unknown")
        figure = f"{sum(check.is_passed for check in kept.checks)} / {len(kept.checks)}"
        key, tone = ("tile.exact yes", "good") if kept.is_exact else ("tile.exact no", "bad")
        return Tile(label=label, figure=figure, says=view.say(key), tone=tone)

    @property
    def _gain(self) -> Tile:
        """By perplexity where texts were given, else by score."""
        view, say, gained = self.view, self.view.say, self.view.study.gained
        label = say("tile.gain")
        if gained.perplexity_gain is not None:
            found = gained.perplexity_gain
            values = {"name": gained.best_by_perplexity, "range": view.range(found, word="interval")}
            return Tile(label=label, figure=times(found.mean), says=say(f"tile.perplexity {found.side(1)}", values))
        if gained.score_gain is not None:
            found = gained.score_gain
            values = {"name": gained.best_by_score, "range": view.range(found, signed, "interval")}
            return Tile(label=label, figure=signed(found.mean), says=say(f"tile.score {found.side(0)}", values))
        return Tile(label=label, figure="–", says=view.missing(gained.perplexity_reason), tone="unknown")

    @property
    def _cost(self) -> Tile:
        view, say = self.view, self.view.say
        rows = [view.study.cost.row(name, view.planned) for name in (view.ours, PLAIN)]
        ours, plain = (row.total if row else None for row in rows)
        figure, tone = view.money(ours), ""
        if ours is None or plain is None:
            reasons: list[Reason] = [row.reason if row else "no such concurrency" for row in rows]
            figure, tone, says = "–", "unknown", view.missing(next(filter(None, reasons)))
        else:
            share = {"share": f"{abs(1 - ours / plain) * 100:.0f}%"} if plain else {}
            change = say("cost.less" if ours <= plain else "cost.more", share) if share else "–"
            says = say("tile.cost says", {"plain": view.money(plain), "change": change})
        return Tile(label=say("tile.cost"), figure=figure, says=says, tone=tone, hook="tile", says_hook="tile-says")

    # The rules.

    def title(self, rule: str) -> str:
        key, _, percentile = rule.partition(".")
        return self.view.say(f"rule.{key}", {"percentile": percentile})

    @property
    def explained(self) -> list[str]:
        """Why each rule matters; those for several percentiles of one figure together."""
        view = self.view
        titles: dict[str, list[str]] = {}
        for rule in view.study.verdict.rules:
            titles.setdefault(rule.name.partition(".")[0], []).append(self.title(rule.name))
        return [
            view.say("verdict.rule says", {"rule": view.listed(names), "says": view.say(f"rule.{key} says")})
            for key, names in titles.items()
        ]

    def rule_tone(self, rule: Rule) -> str:
        return RULE_TONES[rule.status]

    def limit(self, rule: Rule) -> str:
        if rule.limit is None:
            return self.view.say("rule.all checks")
        if rule.name == "score_margin":
            return f"± {rule.limit:g}"
        return f"{'≥' if rule.name.startswith('min_') else '≤'} {self._written(rule.limit, rule)}"

    def measured(self, rule: Rule) -> str:
        say = self.view.say
        if rule.value is None:
            if rule.status == "not measured":
                return say(f"reason.{rule.reason}") if rule.reason else "–"
            return say("tile.exact yes" if rule.status == "met" else "tile.exact no") if rule.limit is None else "–"
        written = self._written(rule.value, rule)
        if rule.low is None or rule.high is None:
            return f"{written} ({say(f'reason.{rule.reason}')})" if rule.reason else written
        ends = {"low": self._written(rule.low, rule), "high": self._written(rule.high, rule)}
        return f"{written} ({say('word.range', ends)})"

    def _written(self, value: float, rule: Rule) -> str:
        match rule.unit:
            case "x":
                return times(value)
            case "share":
                return percent(value)
            case "score":
                return signed(value)
            case "money":
                return self.view.money(value)
            case "ms" | "GiB":
                return f"{amount(value)} {rule.unit}"
        return f"{value:g}"

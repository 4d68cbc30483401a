"""Go or no-go, the four figures behind it, and the criteria one by one."""

from ...results import PLAIN, Interval, Reason, Rule
from ..blocks import Banner, Block, Cell, Column, Note, Section, Table, Tile, Tiles, Tone
from ..numbers import amount, money, percent, signed, times
from ..view import View

_TONES: dict[str, Tone] = {"met": "good", "not met": "bad", "not measured": "unknown"}


def verdict(view: View) -> Section:
    found, say = view.study.verdict, view.say
    blocks: list[Block] = [_banner(view)]
    if _unfinished(view):
        blocks.append(Note(text=say("verdict.unfinished", {"what": view.listed(_unfinished(view))}), tone="unknown"))
    blocks.append(Tiles(tiles=(_speed(view), _exactness(view), _gain(view), _cost(view))))
    titles = ("rule", "outcome", "asked", "measured")
    blocks.append(
        Table(
            title=say("verdict.rules"),
            columns=tuple(Column(title=say(f"column.{title}")) for title in titles),
            rows=tuple(_rule(rule, view) for rule in found.rules),
        )
        if found.rules
        else Note(text=say("verdict.no rules"))
    )
    blocks.append(view.formulas("verdict", "rules"))
    return Section(anchor="verdict", title=say("verdict.title"), blocks=tuple(blocks))


def _banner(view: View) -> Banner:
    found, say = view.study.verdict, view.say
    values = {
        "planned": view.at_once(found.concurrency),
        "up_to": view.at_once(found.up_to),
        "num": sum(rule.is_required for rule in found.rules),
        "rules": view.listed([title(name, view) for name in (*found.blocking, *found.unmeasured)]),
    }
    tones: dict[str, Tone] = {"go": "good", "go up to": "unknown", "no-go": "bad"}
    says = say(f"verdict.says {found.decision}", values)
    if found.decision == "go" and found.up_to > found.concurrency:
        says += say("verdict.says also", values)
    return Banner(decision=say(f"verdict.{found.decision}", values), says=says, tone=tones[found.decision])


def title(name: str, view: View) -> str:
    """A rule's name in words."""
    key, _, percentile = name.partition(".")
    return view.say(f"rule.{key}", {"percentile": percentile})


def _unfinished(view: View) -> list[str]:
    """Methods and concurrencies that were asked for and have no timing, and the self-test if it did not run."""
    settings, speed = view.study.settings, view.study.speed
    gone = [
        view.say("word.at", {"name": view.method(method), "at": view.at_once(level)})
        for level in settings.concurrencies
        for method in settings.methods
        if speed.row(method, level) is None
    ]
    return gone + ([] if view.study.kept.checks else [view.say("kept.checks")])


# The four figures.


def _speed(view: View) -> Tile:
    say, row = view.say, view.study.speed.row(view.ours, view.planned)
    label = say("tile.speed")
    over = row.over_plain if row else None
    if over is None:
        return Tile(label=label, figure="–", says=view.missing(), tone="unknown")
    values = {"ours": view.method(view.ours), "times": times(over.mean), "range": view.range(over)}
    return Tile(label=label, figure=times(over.mean), says=say(f"tile.speed {_side(over, 1)}", values))


def _side(found: Interval, level: float) -> str:
    """Whether the whole interval lies above the level, or below it."""
    if found.low is None or found.high is None:
        return "unsure"
    return "above" if found.low > level else "below" if found.high < level else "unsure"


def _exactness(view: View) -> Tile:
    say, kept = view.say, view.study.kept
    if kept.is_exact is None:
        return Tile(label=say("tile.exact"), figure="–", says=view.missing("not asked"), tone="unknown")
    num = sum(check.is_passed for check in kept.checks)
    figure, says = f"{num} / {len(kept.checks)}", say("tile.exact yes" if kept.is_exact else "tile.exact no")
    return Tile(label=say("tile.exact"), figure=figure, says=says, tone="good" if kept.is_exact else "bad")


def _gain(view: View) -> Tile:
    """By score where there are references, else by perplexity."""
    say, gained = view.say, view.study.gained
    label = say("tile.gain")
    if gained.perplexity_gain is not None:
        found = gained.perplexity_gain
        values = {"name": gained.best_by_perplexity, "range": view.range(found)}
        return Tile(label=label, figure=times(found.mean), says=say(f"tile.perplexity {_side(found, 1)}", values))
    if gained.score_gain is not None:
        found = gained.score_gain
        values = {"name": gained.best_by_score, "range": view.range(found, signed)}
        return Tile(label=label, figure=signed(found.mean), says=say(f"tile.score {_side(found, 0)}", values))
    return Tile(label=label, figure="–", says=view.missing(gained.perplexity_reason), tone="unknown")


def _cost(view: View) -> Tile:
    rows = [view.study.cost.row(name, view.planned) for name in (view.ours, PLAIN)]
    ours, plain = (row.total if row else None for row in rows)
    say = view.say
    hook, says_hook = "tile", "tile-says"
    if ours is None or plain is None:
        reasons: list[Reason] = [row.reason if row else "no such concurrency" for row in rows]
        says = view.missing(next(filter(None, reasons)))
        return Tile(label=say("tile.cost"), figure="–", says=says, tone="unknown", hook=hook, says_hook=says_hook)
    values = {"plain": money(plain, view.currency), "change": change(ours, plain, view)}
    says = say("tile.cost says", values)
    return Tile(label=say("tile.cost"), figure=money(ours, view.currency), says=says, hook=hook, says_hook=says_hook)


def change(ours: float, plain: float, view: View) -> str:
    """How much less or more than plain."""
    if not plain:
        return "–"
    key = "cost.less" if ours <= plain else "cost.more"
    return view.say(key, {"share": f"{abs(1 - ours / plain) * 100:.0f}%"})


# The rules.


def _rule(rule: Rule, view: View) -> tuple[Cell, ...]:
    say = view.say
    key, _, _ = rule.name.partition(".")
    required = say("word.required" if rule.is_required else "word.optional")
    says = say(f"rule.{key} says")
    return (
        Cell(text=title(rule.name, view), below=says, tone="strong"),
        Cell(text=say(f"status.{rule.status}"), below=required, tone=_TONES[rule.status]),
        Cell(text=_asked(rule, view)),
        Cell(text=_measured(rule, view)),
    )


def _asked(rule: Rule, view: View) -> str:
    if rule.limit is None:
        return view.say("rule.all checks")
    if rule.name == "score_margin":
        return f"± {rule.limit:g}"
    sign = "≥" if rule.name.startswith("min_") else "≤"
    return f"{sign} {_written(rule.limit, rule, view)}"


def _measured(rule: Rule, view: View) -> str:
    if rule.status == "not measured" and rule.value is None:
        return view.say(f"reason.{rule.reason}") if rule.reason else "–"
    if rule.value is None:
        return view.say("tile.exact yes" if rule.status == "met" else "tile.exact no") if rule.limit is None else "–"
    written = _written(rule.value, rule, view)
    if rule.low is None or rule.high is None:
        return written if not rule.reason else f"{written} ({view.say(f'reason.{rule.reason}')})"
    ends = {"low": _written(rule.low, rule, view), "high": _written(rule.high, rule, view)}
    return f"{written} ({view.say('word.range', ends)})"


def _written(value: float, rule: Rule, view: View) -> str:
    match rule.unit:
        case "x":
            return times(value)
        case "share":
            return percent(value)
        case "score":
            return signed(value)
        case "money":
            return money(value, view.currency)
        case "ms" | "GiB":
            return f"{amount(value)} {rule.unit}"
    return f"{value:g}"

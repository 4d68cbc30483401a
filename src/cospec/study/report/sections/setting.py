"""What was measured, on which machine, with the raw data."""

from collections import Counter

from ..blocks import Block, Cell, Download, Formula, Note, Section, Table, columns, texts
from ..numbers import size
from ..view import View


def setting(view: View) -> Section:
    say = view.say
    titles = columns(say("setting.columns"), num_words=2)
    blocks: tuple[Block, ...] = (
        Table(title=say("setting.asked"), columns=titles, rows=_asked(view)),
        Table(
            title=say("setting.prompts"),
            columns=columns(say("setting.prompts columns")),
            rows=_prompts(view),
        ),
        Table(title=say("setting.machine"), columns=titles, rows=_machine(view)),
        Note(text=say("setting.says")),
        Download(label=say("setting.download")),
        Formula(lines=(say("formula.raw"), view.study.settings.command)),
    )
    return Section(anchor="setting", title=say("setting.title"), blocks=blocks)


def _asked(view: View) -> tuple[tuple[Cell, ...], ...]:
    say, settings = view.say, view.study.settings
    scoring = {
        "name": settings.score,
        "temperature": f"{settings.score_temperature:g}",
        "tokens": settings.score_tokens,
    }
    figures = {
        "ensemble": settings.ensemble,
        "target": f"r = {settings.target}",
        "members": view.listed([*settings.members]),
        "drafters": view.listed([*settings.drafters]) or "–",
        "verification": settings.verification,
        "on trial": view.method(settings.ours),
        "best": f"{view.method(view.study.speed.best)} {_plan(view)}".strip(),
        "concurrencies": view.listed([str(num) for num in settings.concurrencies]),
        "score": say("setting.scoring", scoring) if settings.score else view.missing("no references"),
        "prompts source": _source(view, settings.prompts_source),
        "criteria": _source(view, settings.criteria_source),
        "prices": _source(view, settings.prices_source),
        "texts": _source(view, view.study.gained.texts_source or "–"),
    }
    return tuple(texts(say(f"setting.{name}"), value) for name, value in figures.items())


def _source(view: View, names: str) -> str:
    """Files as they are called, and what is no file in words."""
    known = {name: view.say(f"source.{name}") for name in ("bundled", "default", "references")}
    return view.listed([known.get(name, name) for name in names.split(", ")])


def _plan(view: View) -> str:
    plan = view.study.speed.best_plan
    return f"({plan})" if plan and plan != view.study.speed.best else ""


def _prompts(view: View) -> tuple[tuple[Cell, ...], ...]:
    prompts = view.study.settings.prompts
    counts = Counter(prompt.category for prompt in prompts)
    scored = Counter(prompt.category for prompt in prompts if prompt.has_reference)
    tokens: Counter[str] = Counter()
    for prompt in prompts:
        tokens[prompt.category] += prompt.num_tokens
    return tuple(
        texts(view.category(name), str(num), str(scored[name]), f"{tokens[name] / num:.0f}")
        for name, num in counts.items()
    )


def _machine(view: View) -> tuple[tuple[Cell, ...], ...]:
    say, found = view.say, view.study.environment
    devices = [f"{name}: {device}, {found.dtypes.get(name, '–')}" for name, device in found.devices.items()]
    figures = {
        "started": found.started or view.missing(),
        "duration": say("setting.minutes", {"num": f"{found.seconds / 60:.1f}"}),
        "processor": say("setting.cores", {"name": found.processor, "num": found.num_cores, "threads": found.threads}),
        "accelerators": view.listed([*found.accelerators]) or say("word.none"),
        "memory": size(found.memory),
        "devices": "; ".join(devices),
        "platform": found.platform,
        "versions": view.listed([f"{name} {version}" for name, version in found.versions.items()]),
    }
    return tuple(texts(say(f"setting.{name}"), value) for name, value in figures.items())

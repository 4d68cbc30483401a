"""A pilot from the options to its report, its tables and its exit status."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import typer

from .. import demo
from ..ensemble import Ensemble
from ..errors import InvalidPilot, UnknownName
from ..storage import keep, to_json
from ..study.criteria import Criteria
from ..study.environment import binding
from ..study.ledger import Ledger
from ..study.methods import ours
from ..study.operation import write_ensemble, write_relaxed
from ..study.pilot import Pilot
from ..study.pilot_results import results
from ..study.pilot_settings import PilotSettings, check_concurrencies, check_prompts
from ..study.prices import Prices
from ..study.questions import read_questions, read_texts
from ..study.report import LANGUAGES
from ..study.report import write as write_report
from ..study.results import ALL, Decision, Results
from ..study.scoring import check_scorer
from ..study.steadiness import steadiness_told
from ..study.verdict import gain, in_words, served
from .chat_options import ChatOptions
from .chats import note_plain_form
from .options import DEFAULT_ENSEMBLE, LocalOptions
from .output import interrupted, print_figures, print_note
from .pilot_options import PilotOptions
from .pilot_tables import tables
from .study import parse_counts, run_study
from .tables import print_tables

MEASUREMENTS, RESULTS, ENSEMBLE, SOFTENED = (
    "measurements.json",
    "results.json",
    "ensemble.yaml",
    "ensemble-relaxed.yaml",
)
# Who drafts for a bundled ensemble whose file names nobody.
DEMO_PROPOSERS = ("demo:drafter", "lookup")
EXIT: Mapping[Decision, int] = {"go": 0, "go up to": 0, "no-go": 3, "not decided": 4}


def run_pilot(options: PilotOptions, chats: ChatOptions, models: LocalOptions) -> None:
    """Run the study, or what is left of it. Raises typer.Exit with the status of the verdict, or of Ctrl-C."""
    ensemble, source = _ensemble(models)
    settings = _settings(options, chats, ensemble, source)
    note_plain_form(ensemble, [question.prompt for question in settings.questions])
    measurements = options.out / MEASUREMENTS
    study = Pilot(ensemble, settings, Ledger.load(measurements, settings.binding(binding(ensemble))))
    is_finished = run_study(study, measurements)
    found = results(study)
    keep(options.out / RESULTS, to_json(found.to_dict()))
    write_report(found, options.out, options.language)
    if not is_finished:
        raise interrupted(
            f"what was measured is in {measurements}, and the same command goes on from there; a report of it is in "
            f"{options.out}"
        )
    write_ensemble(ensemble, study.methods, found, options.out / ENSEMBLE)
    write_relaxed(ensemble, found, options.out / SOFTENED)
    if not options.as_json:
        print_tables(*tables(found))
    if disturbance := steadiness_told(found.environment).disturbance:
        print_note(
            f"the machine was disturbed: {disturbance}. Run the pilot again while it is quiet, into another --out"
        )
    print_note(f"the report is {options.out / 'report.html'}")
    print_note(_next_step(found, options.out / ENSEMBLE))
    print_figures(_last_line(found, options.out), as_json=options.as_json)
    raise typer.Exit(EXIT[found.verdict.decision])


def _last_line(found: Results, out: Path) -> dict[str, object]:
    values = found.to_dict()
    return {
        "out": str(out),
        "verdict": values["verdict"],
        "gain": gain(found.gained),
        "best": found.speed.best,
        "disturbance": steadiness_told(found.environment).disturbance,
        "speed": [row for row in values["speed"]["rows"] if row["category"] == ALL],
    }


def _settings(options: PilotOptions, chats: ChatOptions, ensemble: Ensemble, source: str | None) -> PilotSettings:
    """Raises a CospecError for whatever cannot be read or makes no sense, file and line named."""
    criteria = Criteria.load(options.criteria) if options.criteria else Criteria()
    check_scorer(options.score, "--score")
    questions = [
        replace(each, prompt=chats.as_asked(each.prompt, each.where))
        for each in read_questions(options.prompts, options.score)
    ]
    texts = read_texts(options.texts) if options.texts else {}
    check_prompts(ensemble, questions, texts)
    if options.language not in LANGUAGES:
        raise UnknownName("--language", options.language, LANGUAGES)
    concurrencies = parse_counts(options.concurrency, "1,8", InvalidPilot)
    settings = PilotSettings(
        source=source,
        ours=ours(ensemble),
        questions=questions,
        prompts_source=str(options.prompts) if options.prompts else "bundled",
        texts=tuple(texts.values()),
        texts_source=options.texts,
        num_prompts=options.num_prompts,
        tokens=options.tokens or options.max_tokens,
        temperature=options.temperature,
        repeats=options.repeats,
        concurrencies=tuple(sorted({*concurrencies, criteria.planned_concurrency})),
        score_temperature=options.score_temperature,
        score_tokens=options.score_tokens,
        stop=tuple(options.stop or ()),
        criteria=criteria,
        criteria_source=options.criteria,
        prices=Prices.load(options.prices) if options.prices else Prices(),
        prices_source=options.prices,
        command=shlex.join(["cospec", *sys.argv[1:]]),
    )
    check_concurrencies(ensemble, settings.concurrencies)
    return settings


def _ensemble(models: LocalOptions) -> tuple[Ensemble, str | None]:
    """The ensemble, and what it is called. A bundled one whose file names nobody to draft gets bundled drafters."""
    source = None if models.members else models.ensemble or DEFAULT_ENSEMBLE
    ensemble = models.build()
    is_free = not models.proposer and ensemble.plan.schedule == "auto" and not ensemble.drafter_names
    if source is not None and demo.is_demo(source) and is_free and ensemble.plan.proposer is None:
        ensemble = replace(models, proposer=[*DEMO_PROPOSERS]).build()
    return ensemble, source


def _next_step(found: Results, path: Path) -> str:
    chosen, ours = served(found), found.settings.ours
    if chosen.method != ours:
        return f"{chosen.method} is faster than {ours} and GO; serve it with: cospec serve --ensemble {path}"
    if EXIT[chosen.verdict.decision]:
        return f"{in_words(chosen.verdict)}: the candidate plan, {ours}, is in {path} for another look"
    return f"serve it with: cospec serve --ensemble {path}"

"""`cospec pilot`: a study on the user's own prompts that ends in go or no-go; `cospec pilot compare`: two of them."""

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from .. import demo
from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..errors import InvalidPilot, UnknownName
from ..storage import keep, to_json
from ..study.compare import compare as compare_results
from ..study.criteria import Criteria, write_criteria
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
from ..study.results import ALL, Results
from ..study.scoring import SCORERS, check_scorer
from ..study.verdict import served
from .options import DEFAULT_ENSEMBLE, EnsembleOptions
from .output import print_json, print_note
from .pilot_tables import comparison_table, tables
from .spread import option, spread
from .study import parse_counts, run_study
from .tables import print_tables

EXAMPLE = "cospec pilot --ensemble mine.yaml --prompts prompts.jsonl --criteria criteria.yaml --out pilot"

MEASUREMENTS, RESULTS, ENSEMBLE, SOFTENED = (
    "measurements.json",
    "results.json",
    "ensemble.yaml",
    "ensemble-relaxed.yaml",
)
# Who drafts for a bundled ensemble whose file names nobody.
DEMO_PROPOSERS = ("demo:drafter", "lookup")
INTERRUPTED = 130

app = typer.Typer(add_completion=False, invoke_without_command=True, epilog=f"Example: {EXAMPLE}")


@dataclass(frozen=True, kw_only=True)
class PilotOptions:
    """What is measured, on which prompts, against which criteria, and where the results go."""

    prompts: Path | None = option(
        None,
        metavar="FILE.jsonl|.txt|.csv",
        help="Prompts, with category, reference, score, text and id where they have them.",
        show_default="the bundled prompts",
    )
    criteria: Path | None = option(
        None, metavar="FILE.yaml", help="What must hold; see --write-criteria.", show_default="its template"
    )
    prices: Path | None = option(
        None,
        metavar="FILE.yaml",
        help="currency, machines (name, per_hour, count), electricity_per_kwh, tokens_per_month.",
        show_default="no prices",
    )
    texts: Path | None = option(
        None,
        metavar="FILE.jsonl|.txt|.csv",
        help="Texts to measure perplexity on, beside the prompts' references.",
        show_default=False,
    )
    language: str = option("en", metavar="en|ja", help="Of the report.")
    out: Path = option(
        Path("pilot"), metavar="DIR", help="Where all goes. The same command goes on where it was stopped."
    )
    num_prompts: int = option(24, help="Prompts that are timed; all are scored.", min=2)
    tokens: int = option(32, help="Tokens a timed text; end tokens are passed over.", min=2)
    temperature: float = option(SamplingParams.temperature, help="That timed texts are sampled at.")
    repeats: int = option(2, help="Runs of each method on each prompt; their median counts.", min=1)
    concurrency: str = option("1,8", metavar="1,8,...", help="Texts at once.")
    score: str = option(
        "exact", metavar="|".join((*SCORERS, "module:function")), help="How answers are held against references."
    )
    score_temperature: float = option(0.0, help="That scored texts are sampled at.")
    score_tokens: int = option(64, help="The most tokens of a scored text.", min=1)
    stop: list[str] | None = option(None, metavar="TEXT", help="End a scored text before this.", show_default=False)
    threads: int | None = option(None, help="CPU threads.", show_default="as torch has them", min=1)
    write_criteria: Path | None = option(
        None, metavar="FILE.yaml", help="Write commented criteria here and exit.", show_default=False
    )
    as_json: bool = option(False, "--json", help="Print the last line, a JSON object, and no tables.")

    def settings(self, ensemble: Ensemble, source: str | None) -> PilotSettings:
        """Raises a CospecError for whatever cannot be read or makes no sense, file and line named."""
        criteria = Criteria.load(self.criteria) if self.criteria else Criteria()
        check_scorer(self.score, "--score")
        questions = read_questions(self.prompts, self.score)
        texts = read_texts(self.texts) if self.texts else []
        check_prompts(ensemble, [*questions, *texts])
        if self.language not in LANGUAGES:
            raise UnknownName("--language", self.language, LANGUAGES)
        concurrencies = parse_counts(self.concurrency, "1,8", InvalidPilot)
        settings = PilotSettings(
            source=source,
            ours=ours(ensemble),
            questions=questions,
            prompts_source=str(self.prompts) if self.prompts else "bundled",
            texts=tuple(each.prompt for each in texts),
            texts_source=self.texts,
            num_prompts=self.num_prompts,
            tokens=self.tokens,
            temperature=self.temperature,
            repeats=self.repeats,
            concurrencies=tuple(sorted({*concurrencies, criteria.planned_concurrency})),
            score_temperature=self.score_temperature,
            score_tokens=self.score_tokens,
            stop=tuple(self.stop or ()),
            criteria=criteria,
            criteria_source=self.criteria,
            prices=Prices.load(self.prices) if self.prices else Prices(),
            prices_source=self.prices,
            command=shlex.join(["cospec", *sys.argv[1:]]),
        )
        check_concurrencies(ensemble, settings.concurrencies)
        return settings


@app.callback()
@spread
def pilot(*, context: typer.Context, options: PilotOptions, models: EnsembleOptions) -> None:
    """Run a study on your own prompts that ends in go or no-go.

    Each single member, plain, alternate and auto, paired prompt by prompt: speed, how it comes about, whether quality
    is kept and what is gained over the best member, cost; held against criteria that you set. The last line on
    standard output is one JSON object. `cospec pilot compare A.json B.json` compares two studies.
    """
    if context.invoked_subcommand is not None:
        return
    if options.write_criteria is not None:
        write_criteria(options.write_criteria)
        print_note(f"wrote criteria to {options.write_criteria}; set them, and give them as --criteria")
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    ensemble, source = _ensemble(models)
    settings = options.settings(ensemble, source)
    measurements = options.out / MEASUREMENTS
    study = Pilot(ensemble, settings, Ledger.load(measurements, settings.binding(binding(ensemble))))
    is_finished = run_study(study, measurements)
    found = results(study)
    keep(options.out / RESULTS, to_json(found.to_dict()))
    write_report(found, options.out, options.language)
    if not is_finished:
        print_note(
            f"interrupted; what was measured is in {measurements}, and the same command goes on from there; a report "
            f"of it is in {options.out}"
        )
        raise typer.Exit(INTERRUPTED)
    write_ensemble(ensemble, study.methods, found, options.out / ENSEMBLE)
    write_relaxed(ensemble, found, options.out / SOFTENED)
    if not options.as_json:
        print_tables(*tables(found))
    print_note(f"the report is {options.out / 'report.html'}")
    print_note(_next_step(found, options.out / ENSEMBLE))
    values = found.to_dict()
    speeds = [row for row in values["speed"]["rows"] if row["category"] == ALL]
    last_line = {"out": str(options.out), "verdict": values["verdict"], "best": found.speed.best, "speed": speeds}
    print_json(last_line)


def _ensemble(models: EnsembleOptions) -> tuple[Ensemble, str | None]:
    """The ensemble, and what it is called. A bundled one whose file names nobody to draft gets bundled drafters."""
    source = None if models.members else models.ensemble or DEFAULT_ENSEMBLE
    ensemble = models.build()
    is_free = not models.proposer and ensemble.plan.schedule == "auto" and not ensemble.drafter_names
    if source is not None and demo.is_demo(source) and is_free and ensemble.plan.proposer is None:
        ensemble = replace(models, proposer=[*DEMO_PROPOSERS]).build()
    return ensemble, source


def _next_step(found: Results, path: Path) -> str:
    chosen = served(found)
    if chosen.verdict.decision == "no-go":
        return f"no go; what was on trial, {chosen.method}, is in {path} for another look"
    return f"serve it with: cospec serve --ensemble {path}"


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.json", help="The results.json of one study.")],
    second: Annotated[Path, typer.Argument(metavar="B.json", help="That of another.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Compare two studies, figure by figure."""
    comparison = compare_results(Results.load(first), Results.load(second))
    if as_json:
        print_json(comparison.to_dict())
    else:
        print_tables(comparison_table(comparison))

"""`cospec bench`: every method on the same prompts, interleaved, and what it comes to."""

import hashlib
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from .. import __version__, demo
from ..core.params import SamplingParams
from ..errors import InvalidBenchmark, UnknownName
from ..schedule import Plan, as_gamma
from ..storage import keep as keep_file
from ..study.benchmark import Study, measure, measure_concurrency
from ..study.benchmark_tables import concurrency_table, report, sweep_tables, table
from ..study.methods import Method, chosen, methods, of_schedules
from ..study.predictions import predictions
from ..study.sweep import Sweep
from .options import EnsembleOptions
from .output import Interrupt, print_note, progress, to_line
from .prompts import read_prompts
from .spread import option, spread

EXAMPLE = "cospec bench --ensemble demo:we --proposer demo:drafter --num-prompts 5 --tokens 64 --out results"

_PLAN_KEYS = ("schedule", "gamma", "proposer", "first")


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured, on what, and where it goes."""

    prompts: Path | None = option(
        None,
        metavar="FILE.jsonl",
        help='Prompts: a line each, a JSON string or an object with "prompt".',
        show_default="the bundled prompts",
    )
    num_prompts: int = option(20, help="How many of them.", min=1)
    tokens: int = option(128, help="Tokens a text; end tokens are passed over.", min=1)
    temperature: float = option(SamplingParams.temperature, help="That texts are sampled at.")
    repeats: int = option(3, help="Runs of each method a prompt; their median counts.", min=1)
    methods: str | None = option(
        None, metavar="A,B,...", help="Only these, by the names that the table has.", show_default="all"
    )
    plan: list[str] | None = option(
        None,
        metavar="schedule=S,gamma=N,...",
        help="One more plan, such as schedule=cascade,gamma=4/8,proposer=drafter. Any number of times.",
        show_default=False,
    )
    concurrency: str | None = option(
        None, metavar="1,2,4,...", help="Sweep over so many texts at once too.", show_default="no sweep"
    )
    vary: list[str] | None = option(
        None,
        metavar="gamma|weight|mu=A,B,...",
        help="Also at these values of gamma, of the first member's weight, or of mu. Any number of times.",
        show_default=False,
    )
    threads: int | None = option(None, help="CPU threads.", show_default="as torch has them", min=1)
    out: Path | None = option(
        None,
        metavar="DIR",
        help="Write results.json and plots here. The same command goes on where it was stopped.",
        show_default=False,
    )
    no_plots: bool = option(False, "--no-plots", help="Write no plots.")
    as_json: bool = option(False, "--json", help="Print the last line, a JSON object, and no tables.")

    def texts(self) -> list[str]:
        """Raises InvalidPrompt for a file that cannot be read or holds none."""
        if self.prompts is None:
            return demo.prompts()[: self.num_prompts]
        return [entry.text for entry in read_prompts(None, self.prompts)][: self.num_prompts]

    def params(self) -> SamplingParams:
        return SamplingParams(max_tokens=self.tokens, temperature=self.temperature, ignore_eos=True)

    def levels(self) -> list[int]:
        """Raises InvalidBenchmark for what is no list of counts."""
        parts = self.concurrency.split(",") if self.concurrency else []
        if not all(part.strip().isdecimal() and int(part) for part in parts):
            raise InvalidBenchmark(f"--concurrency must be counts such as 1,2,4, got {self.concurrency!r}")
        return [int(part) for part in parts]

    def sweeps(self) -> list[Sweep]:
        return [Sweep.parse(text) for text in self.vary or []]

    def plans(self) -> list[Plan]:
        return [_plan(text) for text in self.plan or []]

    def settings(self, models: EnsembleOptions, texts: list[str]) -> dict[str, Any]:
        """What kept results must agree in. texts: the prompts."""
        own = {
            key: getattr(self, key) for key in ("num_prompts", "tokens", "temperature", "repeats", "methods", "plan")
        }
        machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        prompts = {"from": str(self.prompts) if self.prompts else None, "sha256": _digest("\0".join(texts))}
        return {"version": __version__, **own, "prompts": prompts, "models": _given(models), "machine": machine}


@spread
def bench(*, options: BenchOptions, models: EnsembleOptions) -> None:
    """Time every method on the same prompts.

    Each single member, plain, members in parallel, every schedule, and what transformers offers for the same models;
    interleaved and paired prompt by prompt, after a warm-up. The last line on standard output is one JSON object.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.out is not None and not options.no_plots:
        from ..study import plots
    # Read once: what comes through a pipe cannot be read again.
    texts = options.texts()
    settings, plans = options.settings(models, texts), options.plans()
    levels, sweeps = options.levels(), options.sweeps()
    ensemble, params = models.build(), options.params()
    # So many at once means so many at once.
    ensemble.max_sequences = max(ensemble.max_sequences, *levels, 1)
    available, skipped = methods(ensemble, params, plans)
    named = options.methods.split(",") if options.methods else []
    picked = chosen(available, named, skipped)
    swept = [
        (each.name, value, of_schedules(each.methods(ensemble, params, value), named))
        for each in sweeps
        for value in each.values
    ]
    study = Study.load(options.out / "results.json", settings) if options.out else Study(settings)
    _measure(study, picked, texts, levels, swept, options, lambda: predictions(ensemble, params, picked, study.counts))
    figures = report(study, skipped)
    if not options.as_json:
        _show(figures)
    if options.out is not None:
        keep_file(options.out / "report.json", to_line(figures))
        if not options.no_plots:
            plots.plot(figures, options.out)
        print_note(f"results are in {options.out}")
    sys.stdout.write(to_line(figures))


def _measure(
    study: Study,
    picked: list[Method],
    texts: list[str],
    levels: list[int],
    swept: list[tuple[str, float, list[Method]]],
    options: BenchOptions,
    predict: Callable[[], dict[str, float]],
) -> None:
    """Prompt by prompt, kept as it comes; Ctrl-C ends it after the prompt at hand.

    predict: what theory gives each method; asked for before many texts at once are decoded, which changes the plan.
    """

    def keep() -> None:
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            study.save(options.out / "results.json")

    total = len(texts) * (1 + len(swept))
    with Interrupt() as interrupt, progress(total) as advance:

        def on_prompt() -> None:
            keep()
            advance()

        measure(study, picked, texts, options.repeats, on_prompt, interrupt.is_noted)
        study.predictions |= predict()
        for setting, value, methods_there in swept:
            measure(study.at(setting, value), methods_there, texts, options.repeats, on_prompt, interrupt.is_noted)
        measure_concurrency(study, picked, texts, levels, options.repeats, keep, interrupt.is_noted)
        keep()
    if not any(study.seconds.values()):
        raise InvalidBenchmark("interrupted before a prompt was measured; there is nothing to report")


def _show(figures: Mapping[str, Any]) -> None:
    console = Console()
    console.print(table(figures))
    if figures["concurrency"]:
        console.print(concurrency_table(figures))
    for each in sweep_tables(figures):
        console.print(each)
    for name, reason in figures["skipped"].items():
        print_note(f"skipped {name}: {reason}")


def _plan(text: str) -> Plan:
    """`schedule=cascade,gamma=4/8` as a plan. Raises UnknownName or InvalidSchedule."""
    pairs = dict(part.partition("=")[::2] for part in text.split(","))
    for key in pairs:
        if key not in _PLAN_KEYS:
            raise UnknownName("setting of --plan", key, _PLAN_KEYS)
    gamma = as_gamma([part for part in pairs.pop("gamma", "").split("/") if part])
    return Plan(gamma=gamma, **pairs)


def _given(models: EnsembleOptions) -> dict[str, Any]:
    """The options that were given, as they were, and what stands in the ensemble's file."""
    given = {key: value for key, value in vars(models).items() if value}
    file = Path(str(given.get("ensemble", "")))
    return {**given, "ensemble_sha256": _digest(file.read_text(encoding="utf-8"))} if file.is_file() else given


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

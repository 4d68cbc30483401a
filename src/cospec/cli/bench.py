"""`cospec bench`: time every method on the same prompts, interleaved, and compare them with plain."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .. import demo
from ..core.params import SamplingParams
from ..errors import InvalidBenchmark, UnknownName
from ..prompts import as_json
from ..resume import digest
from ..schedule import Plan, as_gamma
from ..storage import keep
from ..study.benchmark import Benchmark
from ..study.environment import machine
from ..study.ledger import Ledger
from ..study.methods import selected
from ..study.peers import bench_methods
from ..study.predictions import predictions
from ..study.sweep import Sweep
from .bench_tables import tables
from .chats import ChatOptions, GivenPrompt, check_chats
from .options import EnsembleOptions
from .output import interrupted, print_figures, print_note, to_line
from .prompts import bundled_or_read
from .spread import option, spread
from .study import parse_counts, run_study
from .tables import print_tables

EXAMPLE = "cospec bench --ensemble demo:we --proposer demo:drafter --num-prompts 5 --max-tokens 64 --out results"

RESULTS = "results.json"
_PLAN_KEYS = ("schedule", "gamma", "proposer", "first")


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured, on which prompts, and where the results go."""

    prompts: Path | None = option(
        None,
        metavar="FILE.jsonl",
        help='Prompts: a line each, a JSON string or an object with "prompt" or "messages".',
        show_default="the bundled prompts",
    )
    num_prompts: int = option(20, help="How many of them.", min=1)
    max_tokens: int = option(128, help="Tokens a text; end tokens are passed over.", min=1)
    # What --max-tokens was called in 0.1.
    tokens: int | None = option(None, "--tokens", hidden=True, min=1)
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
        None, metavar="1,2,4,...", help="Sweep over so many concurrent sequences too.", show_default="no sweep"
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
    as_json: bool = option(False, "--json", help="Print one JSON object on a line, and no tables.")

    def texts(self, chats: ChatOptions) -> list[GivenPrompt]:
        """The prompts. Raises InvalidPrompt for a file that cannot be read or holds none."""
        return bundled_or_read(demo.prompts(), self.prompts, chats)[: self.num_prompts]

    def params(self) -> SamplingParams:
        return SamplingParams(max_tokens=self.tokens or self.max_tokens, temperature=self.temperature, ignore_eos=True)

    def levels(self) -> list[int]:
        """Raises InvalidBenchmark for anything but counts."""
        return parse_counts(self.concurrency, "1,2,4", InvalidBenchmark) if self.concurrency else []

    def sweeps(self) -> list[Sweep]:
        return [Sweep.parse(text) for text in self.vary or []]

    def plans(self) -> list[Plan]:
        return [_plan(text) for text in self.plan or []]

    def settings(self, models: EnsembleOptions, texts: Sequence[GivenPrompt]) -> dict[str, Any]:
        """What earlier results must agree in to be resumed. texts: the prompts."""
        own = {key: getattr(self, key) for key in ("num_prompts", "temperature", "repeats", "methods", "plan")}
        own["max_tokens"] = self.params().max_tokens
        prompts = [digest(as_json(text)) for text in texts]
        return {**own, "prompts": prompts, **models.identity(), **machine(self.threads)}


@spread
def bench(*, options: BenchOptions, chats: ChatOptions, models: EnsembleOptions) -> None:
    """Time every method on the same prompts.

    Each single member, plain, members in parallel, every schedule, and what transformers offers for the same models;
    interleaved and paired prompt by prompt, after a warm-up. What cannot run is listed with the reason, and the others
    are timed. With --json, and below the tables where a program reads them, all figures are one JSON object on a line.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.out is not None and not options.no_plots:
        from ..study import plots
    # Read once: a pipe cannot be read again.
    prompts = options.texts(chats)
    settings, plans = options.settings(models, prompts), options.plans()
    levels, sweeps = options.levels(), options.sweeps()
    ensemble, params = models.build(), options.params()
    check_chats(ensemble, prompts)
    ensemble.max_sequences = max(ensemble.max_sequences, *levels, 1)
    available, skipped = bench_methods(ensemble, params, plans)
    named = options.methods.split(",") if options.methods else []
    methods = selected(available, named, skipped)
    file = options.out / RESULTS if options.out else None
    ledger = Ledger(settings=settings)
    if file is not None:
        ledger = Ledger.load(file, settings, content="results of a benchmark", error_type=InvalidBenchmark)
    benchmark = Benchmark(
        ledger=ledger,
        methods=methods,
        prompts=prompts,
        repeats=options.repeats,
        levels=levels,
        variations=[each for sweep in sweeps for each in sweep.variations(ensemble, params, named)],
        predict=partial(predictions, ensemble, params, methods),
    )
    is_finished = run_study(benchmark, file)
    if not ledger.measurements:
        raise interrupted("no prompt was measured yet, and the same command begins anew")
    figures = benchmark.figures(skipped)
    if not options.as_json:
        print_tables(*tables(figures))
    if options.out is not None:
        keep(options.out / "report.json", to_line(figures))
        if not options.no_plots:
            plots.plot(figures, options.out)
        print_note(f"results are in {options.out}")
    print_figures(figures, as_json=options.as_json)
    if not is_finished:
        kept = (
            f"what was measured is in {file}, and the same command goes on from there"
            if file
            else ("nothing is kept but what was printed; with --out the same command goes on")
        )
        raise interrupted(kept)


def _plan(text: str) -> Plan:
    """`schedule=cascade,gamma=4/8` as a plan. Raises UnknownName or InvalidSchedule."""
    pairs = dict(part.partition("=")[::2] for part in text.split(","))
    for key in pairs:
        if key not in _PLAN_KEYS:
            raise UnknownName("setting of --plan", key, _PLAN_KEYS)
    gamma = as_gamma([part for part in pairs.pop("gamma", "").split("/") if part])
    return Plan(gamma=gamma, **pairs)

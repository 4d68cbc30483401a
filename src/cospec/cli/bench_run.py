"""What `cospec bench` does; apart from its options, so that its help comes at once."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from .. import demo
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
from ..study.steadiness import steadiness
from ..study.sweep import Sweep
from .bench import BenchOptions
from .bench_tables import tables
from .chat_options import ChatOptions
from .chats import GivenPrompt, check_chats
from .options import EnsembleOptions
from .output import interrupted, print_figures, print_note, to_line
from .prompts import bundled_or_read
from .study import parse_counts, run_study
from .tables import print_tables

RESULTS = "results.json"
_PLAN_KEYS = ("schedule", "gamma", "proposer", "first")


def run_bench(options: BenchOptions, chats: ChatOptions, models: EnsembleOptions) -> None:
    """Time what is not in the file of --out yet, and print all."""
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.out is not None and not options.no_plots:
        from ..study import plots
    # Read once: a pipe cannot be read again.
    prompts = bench_texts(options, chats)
    settings, plans = bench_settings(options, models, prompts), [_plan(text) for text in options.plan or []]
    levels = parse_counts(options.concurrency, "1,2,4", InvalidBenchmark) if options.concurrency else []
    sweeps = [Sweep.parse(text) for text in options.vary or []]
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
    if advice := steadiness(ledger.measurements).advice:
        print_note(advice)
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


def bench_texts(options: BenchOptions, chats: ChatOptions) -> list[GivenPrompt]:
    """The prompts. Raises InvalidPrompt for a file that cannot be read or holds none."""
    return bundled_or_read(demo.prompts(), options.prompts, chats)[: options.num_prompts]


def bench_settings(options: BenchOptions, models: EnsembleOptions, texts: Sequence[GivenPrompt]) -> dict[str, Any]:
    """What earlier results must agree in to be resumed. texts: the prompts."""
    own = {key: getattr(options, key) for key in ("num_prompts", "temperature", "repeats", "methods", "plan")}
    own["max_tokens"] = options.params().max_tokens
    prompts = [digest(as_json(text)) for text in texts]
    return {**own, "prompts": prompts, **models.identity(), **machine(options.threads)}


def _plan(text: str) -> Plan:
    """`schedule=cascade,gamma=4/8` as a plan. Raises UnknownName or InvalidSchedule."""
    pairs = dict(part.partition("=")[::2] for part in text.split(","))
    for key in pairs:
        if key not in _PLAN_KEYS:
            raise UnknownName("setting of --plan", key, _PLAN_KEYS)
    gamma = as_gamma([part for part in pairs.pop("gamma", "").split("/") if part])
    return Plan(gamma=gamma, **pairs)

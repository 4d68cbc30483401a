"""`cospec bench`: time every method on the same prompts, interleaved, and compare them with plain."""

from dataclasses import dataclass
from pathlib import Path

from ..core.params import SamplingParams
from ..interrupts import importing
from .chat_options import ChatOptions
from .options import EnsembleOptions
from .spread import option, spread

EXAMPLE = "cospec bench --ensemble demo:we --proposer demo:drafter --num-prompts 5 --max-tokens 64 --out results"


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

    def params(self) -> SamplingParams:
        return SamplingParams(max_tokens=self.tokens or self.max_tokens, temperature=self.temperature, ignore_eos=True)


@spread
def bench(*, options: BenchOptions, chats: ChatOptions, models: EnsembleOptions) -> None:
    """Time every method on the same prompts.

    Each single member, plain, members in parallel, every schedule, and what transformers offers for the same models;
    interleaved and paired prompt by prompt, after a warm-up. All decode as many tokens, past end tokens; transformers
    decodes on stock weights, and where cospec packed them also on those (`packed`). What cannot run is listed with the
    reason, and the others are timed. A machine that was disturbed is reported. With --json, and below the tables where
    a program reads them, all figures are one JSON object on a line.
    """
    with importing():
        from .bench_run import run_bench
    run_bench(options, chats, models)

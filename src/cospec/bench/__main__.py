"""`python -m cospec.bench`: what the loop costs around the models, and each schedule over `plain`.

The last line of stdout is one JSON document.
"""

import argparse
import json
import platform
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from .. import __version__, demo
from ..ensemble import Ensemble
from ..errors import InvalidSchedule
from ..results import Result
from ..sampling import SamplingParams
from .bare import bare_forwards
from .timing import Ratio, interleaved, ratio, timed

SCHEDULES = ("plain", "fixed", "alternate", "mixture")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cospec.bench", description=__doc__)
    parser.add_argument("--ensemble", default="demo:we", help="a bundled ensemble or a YAML file (demo:we)")
    parser.add_argument("--prompts", type=int, default=20, help="how many of the bundled prompts (20)")
    parser.add_argument("--tokens", type=int, default=128, help="tokens a text (128)")
    parser.add_argument("--temperature", type=float, default=1.0, help="1.0")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each method a prompt (3)")
    parser.add_argument("--threads", type=int, help="CPU threads")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    params = SamplingParams(max_tokens=arguments.tokens, temperature=arguments.temperature, ignore_eos=True, seed=0)
    base = Ensemble.load(arguments.ensemble, schedule="plain")
    prompts = demo.prompts()[: arguments.prompts]
    report = measure(base, prompts, params, arguments.repeats)
    show(report)
    settings = {key: value for key, value in vars(arguments).items() if value is not None}
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    print(json.dumps({"version": __version__, "settings": settings, "machine": machine, **report}))


def measure(base: Ensemble, prompts: list[str], params: SamplingParams, repeats: int) -> dict[str, object]:
    """Seconds by method and prompt, and their ratios to `plain`'s."""
    ensembles = _ensembles(base, params)
    last: dict[str, dict[str, Result]] = {name: {} for name in ensembles}
    methods: dict[str, Callable[[str], float]] = {
        name: partial(_decode, ensemble, params, last[name]) for name, ensemble in ensembles.items()
    }
    methods["bare forwards"] = lambda prompt: timed(lambda: bare_forwards(base, prompt, last["plain"][prompt]))
    for method in methods.values():
        method(prompts[0])
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=len(methods) * len(prompts) * repeats)
        seconds = interleaved(methods, prompts, repeats, on_run=lambda: progress.advance(task))
    plain = seconds["plain"]
    return {
        "methods": {
            name: {
                "tokens_per_second": params.max_tokens * len(own) / sum(own),
                "over_plain": asdict(ratio(plain, own)),
                **_counts(list(last[name].values()) if name in last else []),
            }
            for name, own in seconds.items()
        },
        "plain_over_bare_forwards": asdict(ratio(plain, seconds["bare forwards"])),
    }


def show(report: dict[str, object]) -> None:
    """The report as a table on the terminal."""
    table = Table(title="speed over plain: geometric mean of per-prompt ratios (95 % bootstrap interval)")
    for column in ("method", "tokens/s", "over plain", "member calls / 100 tokens", "accepted / proposed"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, row in report["methods"].items():  # type: ignore[attr-defined]
        calls = ", ".join(f"{member} {count:.0f}" for member, count in row.get("calls_per_100_tokens", {}).items())
        accepted = ", ".join(f"{proposer} {share:.2f}" for proposer, share in row.get("acceptance", {}).items())
        table.add_row(name, f"{row['tokens_per_second']:.1f}", str(Ratio(**row["over_plain"])), calls, accepted)
    console = Console()
    console.print(table)
    console.print(f"plain over the bare forward calls it makes: {Ratio(**report['plain_over_bare_forwards'])}")  # type: ignore[arg-type]


def _ensembles(base: Ensemble, params: SamplingParams) -> dict[str, Ensemble]:
    ensembles = {}
    for schedule in SCHEDULES:
        try:
            ensembles[schedule] = base.with_plan(schedule=schedule)
            ensembles[schedule].schedule_for(params)
        except InvalidSchedule:
            ensembles.pop(schedule, None)
    return ensembles


def _decode(ensemble: Ensemble, params: SamplingParams, last: dict[str, Result], prompt: str) -> float:
    def work() -> None:
        (last[prompt],) = ensemble.generate([prompt], params)

    return timed(work)


def _counts(results: list[Result]) -> dict[str, object]:
    """Calls of each member a hundred tokens, and each proposer's accepted / proposed."""
    if not results:
        return {}
    num_tokens = sum(result.completion_tokens for result in results)
    calls = {
        name: 100 * sum(result.members[name].calls for result in results) / num_tokens for name in results[0].members
    }
    proposers = sorted({name for result in results for name in result.proposers})
    acceptance = {
        name: sum(result.proposers[name].accepted for result in results if name in result.proposers)
        / max(1, sum(result.proposers[name].proposed for result in results if name in result.proposers))
        for name in proposers
    }
    return {"calls_per_100_tokens": calls, "acceptance": acceptance}


if __name__ == "__main__":
    main()

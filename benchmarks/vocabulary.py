"""What does a token cost outside the models? `python benchmarks/vocabulary.py` measures it at real vocabularies.

Runners hand over random rows that were made before, at no cost, so that what is left is the engine's own time:
combining, sampling, drafting, verifying, bookkeeping. The rows are Gaussian (standard deviation 3), harder than a
model's: top-p .9 at temperature .8 keeps some 1,500 tokens of 151,936. A drafter's rows are a member's with noise.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cospec import Ensemble, Mixture, SamplingParams, __version__
from cospec.core.select import kernels
from cospec.runner import Feed, Slot

VOCABULARIES = (49_152, 151_936, 248_320)
SAMPLING: dict[str, dict[str, Any]] = {
    "T=0": {"temperature": 0.0},
    "T=1": {},
    "T=.8 top-p .9": {"temperature": 0.8, "top_p": 0.9},
    "penalties": {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.1, "frequency_penalty": 0.1},
}
SCHEDULES: dict[str, dict[str, Any]] = {"plain": {"schedule": "plain"}, "fixed 5": {"schedule": "fixed", "gamma": 5}}
PROMPT = [1, 2, 3]
NUM_ROWS, MOST_AT_ONCE = 32, 16
# A call of a model of 135 M parameters on two cores.
CALL_MS = 40
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


class RandomRows:
    """A runner whose row for a position is one of NUM_ROWS rows [vocab], in turn.

    own: what its rows have of their own; 0 gives all runners of a seed the same rows.
    """

    context = tokenizer = None
    end_ids: tuple[int, ...] = ()
    dtype = torch.float32

    def __init__(self, vocab_size: int, own: float, seed: int) -> None:
        self.vocab_size = vocab_size
        shared, noise = (torch.Generator().manual_seed(each) for each in (0, seed))
        rows = 3 * torch.randn(NUM_ROWS, vocab_size, generator=shared)
        rows += own * torch.randn(NUM_ROWS, vocab_size, generator=noise)
        # The first ones again, so that several at once are a slice.
        self._rows = torch.cat([rows, rows[:MOST_AT_ONCE]])

    def open(self) -> Slot:
        return Slot()

    def feed(self, batch: Sequence[Feed]) -> list[Tensor]:
        return [self._feed(feed) for feed in batch]

    def trim(self, slot: Slot, length: int) -> None:
        slot.length = min(slot.length, length)

    def close(self, slot: Slot) -> None:
        """Nothing to give back."""

    def _feed(self, feed: Feed) -> Tensor:
        feed.slot.length += len(feed.tokens)
        first = (feed.slot.length - feed.rows) % NUM_ROWS
        return self._rows[first : first + feed.rows]


def own_milliseconds(ensemble: Ensemble, params: SamplingParams, clock: Callable[[], float]) -> float:
    """A token's time, of which the runners take a few microseconds."""
    started = clock()
    (result,) = ensemble.generate([PROMPT], params)
    return 1000 * (clock() - started) / result.completion_tokens


def measure(vocab_size: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """By schedule and sampling, the median over repeats, all of them in turn."""
    members = [RandomRows(vocab_size, 0.7 * (i > 0), seed=i) for i in range(options.members)]
    combine, drafter = Mixture([1 / len(members)] * len(members)), RandomRows(vocab_size, 0.7, seed=100)
    ensembles = {
        name: Ensemble(members=members, combine=combine, **plan, **({} if name == "plain" else {"proposer": drafter}))
        for name, plan in SCHEDULES.items()
    }
    taken: dict[tuple[str, str], list[float]] = {}
    for repeat in range(options.repeats + 1):
        for name, ensemble in ensembles.items():
            for sampling, given in SAMPLING.items():
                params = SamplingParams(max_tokens=options.tokens, seed=repeat, ignore_eos=True, **given)
                own = own_milliseconds(ensemble, params, CLOCKS[options.clock])
                # The first round warms up.
                taken.setdefault((name, sampling), []).extend([own] if repeat else [])
    return {
        name: {sampling: round(statistics.median(taken[name, sampling]), 3) for sampling in SAMPLING}
        for name in SCHEDULES
    }


def table(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """Milliseconds a token, one line a vocabulary and schedule."""
    lines = [f"{'entries':>9}  {'schedule':9}" + "".join(f"{sampling:>15}" for sampling in SAMPLING)]
    for vocab_size, by_schedule in figures.items():
        for name, own in by_schedule.items():
            lines.append(
                f"{int(vocab_size):>9,}  {name:9}" + "".join(f"{own[sampling]:>15.2f}" for sampling in SAMPLING)
            )
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=VOCABULARIES, metavar="ENTRIES")
    parser.add_argument("--members", type=int, default=1, help="of a mixture with equal weights (default 1)")
    parser.add_argument("--tokens", type=int, default=48, help="of a text (default 48)")
    parser.add_argument("--repeats", type=int, default=3, help="texts of each kind (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--clock", choices=[*CLOCKS], default="wall", help="cpu: on a machine that others use, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    own = {str(size): measure(size, options) for size in options.vocabularies}
    most = CALL_MS * 0.03
    print(f"The engine's own milliseconds a token ({options.clock} clock); 3 % of a call of {CALL_MS} ms are {most}")
    print("Loops over rows are compiled by numba" if kernels() else "Without numba: pip install 'cospec[numba]'")
    print(table(own))
    figures = {
        "own_ms_per_token": own,
        "settings": {name: getattr(options, name) for name in ("members", "tokens", "repeats", "threads", "clock")},
        "cospec": __version__,
        "torch": torch.__version__,
        "numba": kernels() is not None,
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
    }
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


if __name__ == "__main__":
    main()

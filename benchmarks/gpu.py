"""All measurements on one accelerator, in one run of under eight minutes.

    python benchmarks/gpu.py --out gpu.json

Pairs of bundled models are inflated to the shapes of Qwen2.5-1.5B, Qwen2.5-3B and Llama-3-8B in bfloat16. `plain` is
compared with the time that reading all weights once a token takes, and every schedule with `plain`, at several batch
sizes. Each pair has a share of the time budget, inflation included; measurements beyond it are skipped and named under
`left_out`. Without an accelerator: --tiny --device cpu runs the same code on the bundled models as they are.
"""

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from inflate import SHAPES, inflate

from cospec import Ensemble, Mixture, SamplingParams, demo
from cospec.errors import CospecError
from cospec.members import Member
from cospec.schedule import Plan

PAIR = ("demo:math", "demo:general")
DRAFTER = "demo:drafter"
PLANS = {
    "plain": Plan(schedule="plain"),
    "fixed 4 by drafter": Plan(schedule="fixed", gamma=4, proposer="drafter"),
    "alternate": Plan(schedule="alternate", gamma=1),
    "mixture": Plan(schedule="mixture"),
    "mixture 4 by drafter": Plan(schedule="mixture", gamma=4, proposer="drafter"),
    "cascade 6/10": Plan(schedule="cascade", gamma=(6, 10), proposer="drafter"),
    "auto": Plan(schedule="auto"),
}
PAIR_SHAPES = ("qwen2.5-1.5b", "qwen2.5-3b", "llama-3-8b")
BATCHES = (1, 4, 16, 64)


@dataclass
class Budget:
    """A time budget in seconds, and the measurements that were skipped because it was spent."""

    seconds: float
    started: float = field(default_factory=time.perf_counter)
    left_out: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.started)

    def allows(self, what: str) -> bool:
        if self.left > 0:
            return True
        self.left_out.append(what)
        return False

    def part(self, num_parts: int) -> "Budget":
        """An equal share of the time left, one of `num_parts`, with the same list of skipped measurements."""
        return Budget(self.left / num_parts, left_out=self.left_out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, default=420.0, help="seconds after which nothing more is started (420)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens a sequence (64)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each plan, of which the median counts (3)")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=PAIR_SHAPES, help="of the pairs, in this order")
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES, help=f"sequences at a time {BATCHES}")
    parser.add_argument("--tiny", action="store_true", help="the bundled models as they are")
    parser.add_argument("--out", type=Path, help="write the last line here too")
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        parser.exit(2, "no CUDA device here; --tiny --device cpu runs the same code on the bundled models\n")
    line = json.dumps(measure(arguments))
    if arguments.out:
        arguments.out.write_text(line + "\n", encoding="utf-8")
    print(line)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every pair, at every batch size, under every plan, within the time budget."""
    budget = Budget(arguments.budget)
    bandwidth = measured_bandwidth(arguments.device, mib=64 if arguments.tiny else 4096)
    pairs = {}
    names = ("tiny",) if arguments.tiny else arguments.shapes
    for index, name in enumerate(names):
        own = budget.part(len(names) - index)
        if arguments.tiny or own.allows(name):
            pairs[name] = _measure_pair(name, _pair(name, arguments), bandwidth, arguments, own)
            _free(arguments.device)
    device = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "cpu"
    return {"device": device, "bytes_per_second": bandwidth, "pairs": pairs, "left_out": budget.left_out}


def measured_bandwidth(device: str, mib: int) -> float:
    """Memory bandwidth: bytes a second that a large copy reads and writes, the best of five."""
    source = torch.empty(mib * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = [_timed(lambda: target.copy_(source), device) for _ in range(5)]
    return 2 * source.numel() / min(times)


def _timed(work: Callable[[], object], device: str) -> float:
    started = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _pair(name: str, arguments: argparse.Namespace) -> Ensemble:
    """The pair inflated to the shape `name`, or the bundled models as they are."""
    if arguments.tiny:
        return _ensemble(PAIR, arguments.device, "float32")
    with tempfile.TemporaryDirectory() as folder:
        models = [str(Path(folder) / demo.short_name(source)) for source in PAIR]
        for source, model in zip(PAIR, models, strict=True):
            inflate(source, Path(model), SHAPES[name], torch.bfloat16, arguments.device)
        _free(arguments.device)
        return _ensemble(models, arguments.device, "bfloat16")


def _free(device: str) -> None:
    """Free unused memory: models are in reference cycles, and torch's allocator holds on to freed blocks."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _ensemble(models: tuple[str, ...] | list[str], device: str, dtype: str) -> Ensemble:
    members = [Member(model=model) for model in models]
    return Ensemble(members, Mixture([0.5, 0.5]), proposer=DRAFTER, device=device, dtype=dtype)


def _measure_pair(
    name: str, ensemble: Ensemble, bandwidth: float, arguments: argparse.Namespace, budget: Budget
) -> dict[str, Any]:
    num_bytes = sum(p.numel() * p.element_size() for runner in ensemble.runners[:2] for p in runner.model.parameters())
    figures: dict[str, Any] = {"bound_tokens_per_second": bandwidth / num_bytes, "batches": {}}
    for batch in arguments.batches:
        rows = {}
        for title, plan in PLANS.items():
            if budget.allows(f"{name}, batch {batch}, {title}"):
                rows[title] = _speed(ensemble.with_plan(plan), batch, arguments)
        figures["batches"][batch] = {
            plan: {"tokens_per_second": speed, "over_plain": speed / rows["plain"]} for plan, speed in rows.items()
        }
        _show(name, batch, figures)
    return figures


def _speed(ensemble: Ensemble, batch: int, arguments: argparse.Namespace) -> float:
    """Throughput in tokens a second over all sequences, the median after a warm-up, in which graphs are captured."""
    bundled = demo.prompts()
    prompts = [bundled[i % len(bundled)] for i in range(batch)]
    params = SamplingParams(max_tokens=arguments.tokens, ignore_eos=True)
    ensemble.max_sequences = max(ensemble.max_sequences, batch)
    seconds = [
        _timed(lambda: ensemble.generate(prompts, params), arguments.device) for _ in range(arguments.repeats + 1)
    ]
    return batch * arguments.tokens / statistics.median(seconds[1:])


def _show(name: str, batch: int, figures: dict[str, Any]) -> None:
    bound = figures["bound_tokens_per_second"] * batch
    print(f"{name}, batch {batch}: weights alone allow {bound:.0f} tokens/s", file=sys.stderr)
    for plan, row in figures["batches"][batch].items():
        print(f"  {plan:22} {row['tokens_per_second']:8.1f} tokens/s  {row['over_plain']:5.2f}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except CospecError as error:
        sys.exit(str(error))

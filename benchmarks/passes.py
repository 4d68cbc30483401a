"""What a forward pass takes, by the tokens that it feeds to one sequence behind a text.

    python benchmarks/passes.py demo:general --dtype float32 --threads 2

The least of the repeats, and their median, in milliseconds; numbers of tokens take turns.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence

import torch

from cospec import demo
from cospec.runner import Feed, LoadOptions
from cospec.runner.hf import HfRunner, load

TOKENS = (1, 2, 4, 6, 9, 17)


def seconds(runner: HfRunner, behind: int, repeats: int) -> dict[int, list[float]]:
    """Seconds of each repeat, by the number of tokens."""
    found: dict[int, list[float]] = {count: [] for count in TOKENS}
    slot = runner.open()
    runner.feed([Feed(slot, [1] * behind, 0)])
    for _ in range(repeats):
        for count, own in found.items():
            started = time.perf_counter()
            runner.feed([Feed(slot, [5] * count, count)])
            own.append(time.perf_counter() - started)
            runner.trim(slot, behind)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a bundled model such as demo:general, or a path")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--behind", type=int, default=64, help="tokens of the text (default: 64)")
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    path = demo.path_of(options.model) if demo.is_demo(options.model) else options.model
    runner = load(path, LoadOptions(device="cpu", dtype=options.dtype))
    times = seconds(runner, options.behind, options.repeats)
    for count, own in times.items():
        print(f"{count:3} tokens: {1e3 * min(own):.2f} ms (median {1e3 * statistics.median(own):.2f})")
    least = {count: round(1e3 * min(own), 3) for count, own in times.items()}
    print(json.dumps({"model": options.model, "forward": type(runner.forward).__name__, "least_ms": least}))


if __name__ == "__main__":
    main()

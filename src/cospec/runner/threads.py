"""How many threads of a CPU pay: those of a product wait for the slowest, which may be waiting for a core."""

import time
from statistics import median

import torch

# A product of a few rows with weights that no cache holds, as decoding has them; and how often it is timed. All of it
# takes a tenth of a second on a quiet machine.
ROWS, WIDTH = 8, 1536
NUM_TRIALS, NUM_PRODUCTS = 5, 4
# Seconds after which no further trial begins.
MOST_SECONDS = 2.0
# Fewer threads must be so much faster, which on a quiet machine they never are: two take half to all of one's time.
CLEARLY_LESS = 0.7


def paying_threads(most: int | None = None) -> int:
    """The number of threads with which products are fastest now: `most` (torch's own by default), or if it is clearly
    faster half of that, and so on down to one. torch is left as it was."""
    before = torch.get_num_threads()
    best = most or before
    if best == 1:
        return 1
    rows, weight = torch.ones(ROWS, WIDTH), torch.ones(WIDTH, WIDTH)
    try:
        while best > 1 and _is_clearly_faster(best // 2, best, rows, weight):
            best //= 2
    finally:
        torch.set_num_threads(before)
    return best


def _is_clearly_faster(few: int, many: int, rows: torch.Tensor, weight: torch.Tensor) -> bool:
    seconds: dict[int, list[float]] = {few: [], many: []}
    started = time.perf_counter()
    # In turns, so that a load that comes and goes slows both.
    for trial in range(NUM_TRIALS):
        if trial and time.perf_counter() - started > MOST_SECONDS:
            break
        for threads, taken in seconds.items():
            taken.append(_seconds(threads, rows, weight))
    return median(seconds[few]) <= CLEARLY_LESS * median(seconds[many])


def _seconds(threads: int, rows: torch.Tensor, weight: torch.Tensor) -> float:
    torch.set_num_threads(threads)
    # The first one wakes the threads.
    rows @ weight
    started = time.perf_counter()
    for _ in range(NUM_PRODUCTS):
        rows @ weight
    return time.perf_counter() - started

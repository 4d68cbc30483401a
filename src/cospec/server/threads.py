"""How the cores of a CPU are shared: by members' forward passes, and by the server's event loop beside them."""

import time
from dataclasses import dataclass
from statistics import median

import torch

from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..runner.protocol import placed_on, server_of

# Seconds of a round from which the server's work, which is done between rounds, no longer matters.
LONG_ROUND = 0.05
# A round with one thread less may take so many times as long. Beside the event loop it is faster than measured here:
# the threads of a forward pass wait for the slowest, which would be the one whose core the event loop takes.
MOST_SLOWER = 1.5
NUM_ROUNDS, NUM_TRIALS = 8, 3
MOST_TOKENS = 256
# The batch for which side by side is tried, and the part of the usual time that it may take at most.
SEVERAL, CLEARLY_LESS = 16, 0.95


@dataclass(frozen=True)
class Cores:
    """threads: of one forward pass. calls: forward passes that may run side by side."""

    threads: int
    calls: int = 1


def share_cores(ensemble: Ensemble, max_sequences: int) -> Cores:
    """Measure which use of the cores is fastest, for one sequence and for several; torch is set to it.

    One thread less is used if forward passes are short and become little slower. Members run side by side, with the
    cores divided among them, if that is faster for several sequences (at most max_sequences) and little slower for one.
    """
    most = torch.get_num_threads()
    best = Cores(most)
    if most > 1 and _is_on_cpu(ensemble) and median(_rounds(ensemble, Cores(most), 1)) < LONG_ROUND:
        best = _better(ensemble, 1, best, Cores(most - 1), MOST_SLOWER)
        num_runners = len({id(server_of(runner)) for runner in ensemble.runners[: len(ensemble.member_names)]})
        shared = Cores(max(1, most // num_runners), min(num_runners, most))
        several = min(SEVERAL, max_sequences)
        # With the same number of threads in a forward pass, one sequence takes the same time.
        if (num_runners > 1 and several > 1) and (
            shared.threads == best.threads or _better(ensemble, 1, best, shared, MOST_SLOWER) == shared
        ):
            best = _better(ensemble, several, best, shared, CLEARLY_LESS)
    torch.set_num_threads(best.threads)
    return best


def _better(ensemble: Ensemble, num_sequences: int, usual: Cores, other: Cores, at_most: float) -> Cores:
    """The other one if its median round takes at most `at_most` times as long as the usual one's."""
    seconds: dict[Cores, list[float]] = {usual: [], other: []}
    # In turns, so that a load that comes and goes on this machine slows both.
    for cores in list(seconds) * NUM_TRIALS:
        seconds[cores] += _rounds(ensemble, cores, num_sequences)
    return other if median(seconds[other]) <= at_most * median(seconds[usual]) else usual


def _rounds(ensemble: Ensemble, cores: Cores, num_sequences: int) -> list[float]:
    """Seconds of each of NUM_ROUNDS rounds under `plain`."""
    torch.set_num_threads(cores.threads)
    plain = ensemble.with_plan(schedule="plain", gamma=None, proposer=None, first=None)
    engine = plain.engine(cores.calls)
    params = SamplingParams(max_tokens=MOST_TOKENS, seed=0, ignore_eos=True)
    for index in range(num_sequences):
        engine.add(plain.request([1], params, index))
    # A member's own prompt may take several rounds of chunked prefill: wait until every sequence moves.
    while engine.num_live == num_sequences and len(engine.step()) < num_sequences:
        pass
    seconds = []
    for _ in range(NUM_ROUNDS):
        started = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - started)
    engine.close()
    return seconds


def _is_on_cpu(ensemble: Ensemble) -> bool:
    return all(torch.device(placed_on(runner)).type == "cpu" for runner in ensemble.runners)

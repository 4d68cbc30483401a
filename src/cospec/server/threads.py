"""How the cores of a CPU are shared: by members' calls, and by the server, which needs one while it tells clients."""

import time
from dataclasses import dataclass
from statistics import median

import torch

from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..runner.hf import HfRunner

# A token that takes so many seconds is not held up by the server, whose work comes between tokens.
LONG_TOKEN = 0.05
# Decoding may take so many times as long with a thread less; where the server runs at its side it is faster still: what
# threads of one call share is done when the last is, and the server takes the core of one of them.
MOST_SLOWER = 1.5
NUM_ROUNDS, NUM_TRIALS = 8, 3
MOST_TOKENS = 256
# So many texts are several: calls of them are side by side if that takes clearly less.
SEVERAL, CLEARLY_LESS = 16, 0.95


@dataclass(frozen=True)
class Cores:
    """threads: of a call. calls: how many there may be at once."""

    threads: int
    calls: int = 1


def share_cores(ensemble: Ensemble, max_sequences: int) -> Cores:
    """Tries what is best for one text and for several, and has torch use so many threads from here on.

    A thread less decodes if calls are short and that costs them little. Members are called side by side, with the cores
    shared out among them, if that is faster for several texts, of which there are at most max_sequences, and costs one
    text little.
    """
    most = torch.get_num_threads()
    best = Cores(most)
    if most > 1 and _is_on_cpu(ensemble) and median(_rounds(ensemble, Cores(most), 1)) < LONG_TOKEN:
        best = _better(ensemble, 1, best, Cores(most - 1), MOST_SLOWER)
        num_runners = len({id(runner) for runner in ensemble.runners[: len(ensemble.member_names)]})
        shared = Cores(max(1, most // num_runners), min(num_runners, most))
        several = min(SEVERAL, max_sequences)
        # With as many threads in a call, one text is decoded as before.
        if (num_runners > 1 and several > 1) and (
            shared.threads == best.threads or _better(ensemble, 1, best, shared, MOST_SLOWER) == shared
        ):
            best = _better(ensemble, several, best, shared, CLEARLY_LESS)
    torch.set_num_threads(best.threads)
    return best


def _better(ensemble: Ensemble, num_texts: int, usual: Cores, other: Cores, at_most: float) -> Cores:
    """The other one if it takes at most so many times as long: the usual round, whatever else holds one up."""
    seconds: dict[Cores, list[float]] = {usual: [], other: []}
    for cores in list(seconds) * NUM_TRIALS:
        seconds[cores] += _rounds(ensemble, cores, num_texts)
    return other if median(seconds[other]) <= at_most * median(seconds[usual]) else usual


def _rounds(ensemble: Ensemble, cores: Cores, num_texts: int) -> list[float]:
    """Seconds of each, of `plain`."""
    torch.set_num_threads(cores.threads)
    plain = ensemble.with_plan(schedule="plain", gamma=None, proposer=None, first=None)
    engine = plain.engine(cores.calls)
    params = SamplingParams(max_tokens=MOST_TOKENS, seed=0, ignore_eos=True)
    for index in range(num_texts):
        engine.add(plain.request([1], params, index))
    # Members may have long prompts of their own, which are read in pieces: until all texts move.
    while engine.num_live == num_texts and len(engine.step()) < num_texts:
        pass
    seconds = []
    for _ in range(NUM_ROUNDS):
        started = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - started)
    engine.close()
    return seconds


def _is_on_cpu(ensemble: Ensemble) -> bool:
    return all(runner.model.device.type == "cpu" for runner in ensemble.runners if isinstance(runner, HfRunner))

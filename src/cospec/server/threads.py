"""How many CPU threads decode beside a server, which needs a core itself while it tells the clients."""

import time

import torch

from ..ensemble import Ensemble
from ..sampling import SamplingParams

# A token that takes so many seconds is not held up by the server, whose work comes between tokens.
LONG_TOKEN = 0.05
# Decoding may take so many times as long with a thread less; where the server runs at its side it is faster still: what
# threads of one call share is done when the last is, and the server takes the core of one of them.
MOST_SLOWER = 1.5
NUM_TOKENS, NUM_TRIALS = 8, 3


def leave_a_core(ensemble: Ensemble) -> int:
    """Decode with a thread less from here on, if calls are short and that costs them little; the number of threads."""
    most = torch.get_num_threads()
    if most > 1 and _seconds_a_token(ensemble, most) < LONG_TOKEN:
        seconds = {most: 0.0, most - 1: 0.0}
        for number in list(seconds) * NUM_TRIALS:
            seconds[number] += _seconds_a_token(ensemble, number)
        most = most - 1 if seconds[most - 1] <= MOST_SLOWER * seconds[most] else most
    torch.set_num_threads(most)
    return most


def _seconds_a_token(ensemble: Ensemble, num_threads: int) -> float:
    """Of `plain`, with so many threads."""
    torch.set_num_threads(num_threads)
    plain = ensemble.with_plan(schedule="plain", gamma=None, proposer=None, first=None)
    started = time.perf_counter()
    plain.generate([[1]], SamplingParams(max_tokens=NUM_TOKENS, seed=0, ignore_eos=True))
    return (time.perf_counter() - started) / NUM_TOKENS

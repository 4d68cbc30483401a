"""The cost of forward passes, measured before anything is decoded, so that `auto` need not find it out on a text."""

import logging
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ..core.faults import guarded
from ..runner import Feed, Runner, Slot
from ..runner.protocol import server_of
from .costs import Costs

logger = logging.getLogger(__name__)

# Tokens a lane, in all lanes of a runner at once: one token, and blocks of drafts with the token behind them.
SIZES = (1, 4, 9, 17)
# Tokens in a slot before, rounds over all sizes at most, and seconds after which no further round begins.
NUM_BEFORE, MOST_ROUNDS, MOST_SECONDS = 8, 5, 1.5


@dataclass(frozen=True)
class Probe:
    """A forward pass that is measured again and again: `size` tokens for each of these lanes' slots."""

    server: int
    lanes: tuple[int, ...]
    size: int


def calibrated(runners: Mapping[int, Runner], servers: Sequence[int]) -> list[Any]:
    """The cost of forward passes of these lanes, as `Costs.state` gives it; empty where a runner raises, whose error is
    left to decoding.

    runners: by lane. servers: see Setting. Each size is fed once unmeasured, then up to five times within 1.5 seconds
    for all together; the median counts. Slots are given back.
    """
    slots: dict[int, Slot] = {}
    with ExitStack() as opened:
        try:
            for lane, runner in runners.items():
                slots[lane] = runner.open()
                opened.callback(guarded, str(lane), runner.close, slots[lane])
                runner.feed([_feed(runner, slots[lane], NUM_BEFORE)])
            return _measured(runners, slots, _probes(runners, servers))
        except Exception as error:
            # Another package's runner may raise anything.
            logger.info("costs are measured while decoding: %s: %s", type(error).__name__, error)
            return []


def _probes(runners: Mapping[int, Runner], servers: Sequence[int]) -> list[Probe]:
    """One token of one lane, and each size of all lanes that a runner serves."""
    together: dict[int, list[int]] = defaultdict(list)
    for lane in runners:
        together[servers[lane]].append(lane)
    probes = []
    for server, lanes in together.items():
        contexts = [context for lane in lanes if (context := runners[lane].context) is not None]
        sizes = [size for size in SIZES if NUM_BEFORE + size <= min(contexts, default=NUM_BEFORE + size)]
        probes += [Probe(server, (lanes[0],), 1)] if len(lanes) > 1 else []
        probes += [Probe(server, tuple(lanes), size) for size in sizes]
    return probes


def _measured(runners: Mapping[int, Runner], slots: dict[int, Slot], probes: Sequence[Probe]) -> list[Any]:
    started = time.perf_counter()
    seconds: dict[Probe, list[float]] = {probe: [] for probe in probes}
    for number in range(1 + MOST_ROUNDS):
        if number > 1 and time.perf_counter() - started > MOST_SECONDS:
            break
        for probe, own in seconds.items():
            taken = _timed(runners, slots, probe)
            # The first pass of a shape allocates, compiles or captures.
            own += [taken] if number else []
    costs = Costs()
    for probe, own in seconds.items():
        costs.put(probe.server, probe.size * len(probe.lanes), statistics.median(own), len(own))
    return costs.state()


def _timed(runners: Mapping[int, Runner], slots: dict[int, Slot], probe: Probe) -> float:
    """Seconds of one pass, which is forgotten afterwards."""
    feeds = [_feed(runners[lane], slots[lane], probe.size) for lane in probe.lanes]
    started = time.perf_counter()
    server_of(runners[probe.lanes[0]]).feed(feeds)
    taken = time.perf_counter() - started
    for lane in probe.lanes:
        runners[lane].trim(slots[lane], NUM_BEFORE)
    return taken


def _feed(runner: Runner, slot: Slot, size: int) -> Feed:
    """Tokens that differ, of which all rows are wanted, as in verification."""
    first = slot.length * 101 + 7
    return Feed(slot, [(first + 101 * i) % runner.vocab_size for i in range(size)], size)

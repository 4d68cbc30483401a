"""The cost of forward passes and of the engine's own work, measured before anything is decoded, so that `auto` need not
find it out on a text."""

import itertools
import logging
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ..core.draws import Draws
from ..core.engine import Engine
from ..core.faults import guarded
from ..core.live import Request
from ..core.params import SamplingParams
from ..runner import Feed, Runner, Slot
from ..runner.protocol import Tokenizer, server_of
from .auto import Auto
from .costs import DECIDING, DRAFTING, Costs
from .plan import Plan, Setting

logger = logging.getLogger(__name__)

# Tokens a lane, in all lanes of a runner at once: one token, and blocks of drafts with the token behind them.
SIZES = (1, 4, 9, 17)
# Tokens in a slot before, rounds over all sizes at most, and seconds after which no further round begins.
NUM_BEFORE, MOST_ROUNDS, MOST_SECONDS = 8, 5, 1.5
# The texts that time the engine, sampled by default: one that loads what is compiled, and one of two blocks or more.
WARMING, TIMED = (SamplingParams(max_tokens=length, ignore_eos=True) for length in (5, 8))


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


def with_rounds(
    costs: Sequence[Any], engine: Engine, setting: Setting, verification: str, tokenizer: Tokenizer | None
) -> list[Any]:
    """These costs of forward passes, and the engine's own in rounds that draft nothing and in those of blocks, of a
    short text each, as far as they come within 1.5 seconds and nothing fails, whose error is left to decoding.

    engine: its own, which is closed, over the lanes of the setting.
    """
    prompt = tuple(_tokens(0, NUM_BEFORE, engine.vocab_size))
    latest, rounds = time.perf_counter() + MOST_SECONDS, list[Any]()
    try:
        for plan, params in itertools.product(_plans(setting, verification), (WARMING, TIMED)):
            planner = Auto.of_plans([plan], setting, plan.name)
            planner.begin_with_costs([*costs, *rounds])
            request = Request(
                prompt=prompt,
                lane_prompts=[prompt] * len(setting.lanes),
                params=params,
                combination=setting.combination,
                schedule=planner,
                verification=verification,
                draws=Draws(0),
                tokenizer=tokenizer,
            )
            is_whole = _decode(engine, request, latest)
            if params is TIMED:
                rounds = [cell for cell in planner.beliefs.costs.state() if cell[0] in (DECIDING, DRAFTING)]
            if not is_whole:
                break
    except Exception as error:
        logger.info("the engine is timed while decoding: %s: %s", type(error).__name__, error)
    finally:
        engine.close()
    return [*costs, *rounds]


def _plans(setting: Setting, verification: str) -> list[Plan]:
    """A plan without drafts, and one of blocks where something can draft."""
    proposers = setting.drafters or (setting.members if len(setting.members) > 1 else ())
    blocks = [Plan(schedule="fixed", proposer=name, verification=verification) for name in proposers[:1]]
    return [Plan(schedule="plain", verification=verification), *blocks]


def _decode(engine: Engine, request: Request, latest: float) -> bool:
    """Whether a text came to its end by then, and without an error."""
    engine.add(request)
    while engine.num_live and time.perf_counter() < latest:
        for event in engine.step():
            if event.result is not None and event.result.error is not None:
                logger.info("the engine is timed while decoding: %s", event.result.error)
                return False
    return not engine.num_live


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
    return Feed(slot, _tokens(slot.length, size, runner.vocab_size), size)


def _tokens(start: int, count: int, vocab_size: int) -> list[int]:
    return [(7 + 101 * i) % vocab_size for i in range(start, start + count)]

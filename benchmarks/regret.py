"""What `auto` loses while it learns: its time over that of the best fixed plan, in the first tokens of a process.

    python benchmarks/regret.py --ensemble demo:we --ensemble demo:chat-guided

Every text is decoded by each fixed plan and by `auto`, one after the other, so that the machine's load meets all alike.
`auto` decodes it four times: knowing nothing but what calibration measured (cold), with what it has learned on the
texts before (cold, going on), and both again after its measurements of other texts were restored as from a kept file.
Regret is seconds of `auto` over seconds of the best fixed plan, less 1: `first` over the first text of a planner, of
`--tokens` tokens, in the mean of all texts; `all` over all of them, one after the other. The best fixed plan of a text
is the one that was the fastest on the other texts: which plan is lucky on a text nobody knows before. Fixed plans that
are hopeless after two texts are timed no further. Times are of whole texts, prompts included; seconds of calibration,
which belong to loading, are not in them.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from cospec import Ensemble, SamplingParams, demo
from cospec.errors import CospecError
from cospec.prompts import Chat, Prompt
from cospec.schedule import Plan, plans

ENSEMBLES = ("demo:we", "demo:cd", "demo:guided")
GAMMAS = (2, 4, 8)
# A fixed plan is timed no further once it took so many times the fastest plan's seconds over so many texts.
HOPELESS, NUM_BEFORE_HOPELESS = 1.4, 2


@dataclass
class Clock:
    """Seconds of each way to decode, by text."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, seconds: float) -> None:
        self.seconds.setdefault(name, []).append(seconds)

    def total(self, name: str) -> float:
        return sum(self.seconds[name])

    def alive(self, names: Sequence[str]) -> list[str]:
        """Those that were timed on as many texts as any other."""
        longest = max(len(self.seconds.get(name, ())) for name in names)
        timed = [name for name in names if len(self.seconds.get(name, ())) == longest]
        if longest < NUM_BEFORE_HOPELESS:
            return timed
        return [name for name in timed if self.total(name) <= HOPELESS * min(map(self.total, timed))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ensemble", action="append", help=f"by name or file, several times ({', '.join(ENSEMBLES)})")
    parser.add_argument("--proposer", action="append", help="drafters, in place of the ensemble's own")
    parser.add_argument("--tokens", type=int, default=100, help="tokens a text (100)")
    parser.add_argument("--texts", type=int, default=10, help="texts (10)")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the tables")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    params = SamplingParams(max_tokens=arguments.tokens, temperature=arguments.temperature, ignore_eos=True)
    rows = []
    for name in arguments.ensemble or ENSEMBLES:
        given = {"proposer": arguments.proposer} if arguments.proposer else {}
        ensemble = Ensemble.load(name, schedule="auto", keep_measurements=False, **given)
        rows.append({"ensemble": name, **regret(ensemble, prompts_for(ensemble), params, arguments.texts)})
        if not arguments.json:
            show(rows[-1])
    if arguments.json:
        print(json.dumps({"tokens": arguments.tokens, "temperature": arguments.temperature, "ensembles": rows}))


def prompts_for(ensemble: Ensemble) -> list[Prompt]:
    """The bundled chats where all members have a chat template, else the bundled prompts."""
    is_chat = set(ensemble.templated) == set(ensemble.member_names)
    return [Chat(messages=tuple(chat)) for chat in demo.chats()] if is_chat else [*demo.prompts()]


def regret(ensemble: Ensemble, prompts: Sequence[Prompt], params: SamplingParams, num_texts: int) -> dict[str, Any]:
    """Regret of `auto` on the first `num_texts` prompts, and what was timed; the prompts behind them are those that a
    kept planner has learned from."""
    clock, fixed = Clock(), fixed_plans(ensemble, params)
    measured = [prompts[i % len(prompts)] for i in range(num_texts)]
    kept = learned(ensemble, [prompts[-1 - i % len(prompts)] for i in range(num_texts)], params)
    going_on = {"cold": fresh(ensemble), "kept": restored(ensemble, kept, params)}
    choices: dict[str, list[str]] = {"cold": [], "kept": []}
    for prompt in measured:
        for name in clock.alive([*fixed]):
            clock.add(name, seconds_of(ensemble.with_plan(fixed[name]), prompt, params))
        for start, planned in going_on.items():
            first = fresh(ensemble) if start == "cold" else restored(ensemble, kept, params)
            clock.add(f"{start}, first", seconds_of(first, prompt, params))
            choices[start].append(first.planner_for(params).chosen or "")
            clock.add(f"{start}, all", seconds_of(planned, prompt, params))
    alive = clock.alive([*fixed])
    timed = [f"{start}, {part}" for start in going_on for part in ("first", "all")]
    best = best_seconds(clock, alive)
    return {
        "best": min(alive, key=clock.total),
        "texts": num_texts,
        "tokens_per_second": {name: num_texts * params.max_tokens / clock.total(name) for name in [*alive, *timed]},
        "regret": {name: clock.total(name) / best - 1 for name in timed},
        "over_plain": {name: plain_seconds(clock, num_texts) / clock.total(name) for name in timed},
        "chosen": choices,
        "seconds": clock.seconds,
    }


def best_seconds(clock: Clock, alive: Sequence[str]) -> float:
    """Of the best fixed plans on all texts, each text's being the one that was the fastest on the others."""
    num_texts = len(clock.seconds[alive[0]])
    own = [
        clock.seconds[min(alive, key=lambda name, i=i: clock.total(name) - clock.seconds[name][i])][i]
        for i in range(num_texts)
    ]
    return sum(own)


def plain_seconds(clock: Clock, num_texts: int) -> float:
    """Of `plain` on all texts, scaled up where it was given up before."""
    own = clock.seconds["plain"]
    return sum(own) * num_texts / len(own)


def fixed_plans(ensemble: Ensemble, params: SamplingParams) -> dict[str, Plan]:
    """Every plan that `auto` weighs, by several numbers of drafts where that is left to it."""
    weighed = plans(ensemble.setting(params), ensemble.plan.verification)
    fixed = [
        plan if not plan.is_paced else replace(plan, gamma=gamma)
        for plan in weighed
        for gamma in (GAMMAS if plan.is_paced else (None,))
    ]
    return {str(plan): plan for plan in fixed}


def fresh(ensemble: Ensemble) -> Ensemble:
    """The same members under `auto`, which knows what forward passes cost and has decoded nothing."""
    return ensemble.with_combination(copy.copy(ensemble.combination))


def restored(ensemble: Ensemble, state: dict[str, Any], params: SamplingParams) -> Ensemble:
    """The same with what was learned before, as from a file."""
    other = fresh(ensemble)
    other.planner_for(params).begin_with(json.loads(json.dumps(state)))
    return other


def learned(ensemble: Ensemble, prompts: Sequence[Prompt], params: SamplingParams) -> dict[str, Any]:
    """What `auto` knows after these texts."""
    planned = fresh(ensemble)
    for prompt in prompts:
        planned.generate([prompt], params)
    return planned.planner_for(params).state()


def seconds_of(ensemble: Ensemble, prompt: Prompt, params: SamplingParams) -> float:
    """Seconds of one text."""
    started = time.perf_counter()
    (result,) = ensemble.generate([prompt], params)
    if result.error:
        sys.exit(result.error)
    return time.perf_counter() - started


def show(row: dict[str, Any]) -> None:
    """A table of one ensemble."""
    print(f"\n{row['ensemble']}: best fixed plan {row['best']}, {row['texts']} texts")
    for name, speed in sorted(row["tokens_per_second"].items(), key=lambda item: -item[1]):
        lost, over_plain = row["regret"].get(name), row["over_plain"].get(name)
        loss = "" if lost is None else f"regret {lost:+7.1%}  over plain {over_plain:.2f}"
        print(f"  {name:28} {speed:8.1f} tokens/s  {loss}")


if __name__ == "__main__":
    try:
        main()
    except CospecError as error:
        sys.exit(str(error))

"""Invariant numerics: whether a seed has one text whatever is decoded beside it, and what that costs.

    python benchmarks/invariant.py demo:we --prompts 64 --max-tokens 128 --batches 1 3 8 32 --out invariant.json

Texts under every schedule that can be had, in several sizes of batches, with prompts in short chunks and in another
order of arrival are compared with `plain`'s, one text at a time; coupled at temperature 1, and greedy. Then `plain` is
timed under both numerics, at 1 and 16 texts, in turns. Several models are the members of an equal mixture. What
stands in the file of `--out` from a run with the same options is not decoded again.
"""

import argparse
import itertools
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cospec import Ensemble, SamplingParams, demo
from cospec.core import prefill
from cospec.schedule import Plan
from cospec.study.exactness import tested_plans


def made(specs: Sequence[str], numerics: str, dtype: str, proposer: str | None) -> Ensemble:
    """The ensemble of a file or name, or of models."""
    options: dict[str, Any] = {"numerics": numerics, "dtype": dtype, "device": "cpu", "verification": "coupled"}
    if proposer is not None:
        options["proposer"] = proposer
    if len(specs) == 1 and (specs[0] in demo.ensembles() or specs[0].endswith(".yaml")):
        return Ensemble.load(specs[0], **options)
    return Ensemble([*specs], **options)


def texts(
    ensemble: Ensemble, prompts: Sequence[str], params: SamplingParams, order: Sequence[int]
) -> dict[int, list[int]]:
    """By prompt, the token ids; the prompts arrive in this order."""
    results = ensemble.generate([prompts[i] for i in order], params)
    if error := next((result.error for result in results if result.error), None):
        raise SystemExit(f"a sequence failed: {error}")
    return {i: list(result.token_ids) for i, result in zip(order, results, strict=True)}


def compared(
    ensemble: Ensemble,
    prompts: Sequence[str],
    params: SamplingParams,
    batches: Sequence[int],
    plans: dict[str, Plan],
    each: int,
    rows: list[dict[str, Any]],
) -> Iterator[None]:
    """How many texts are equal to `plain`'s alone, for each plan, size of batch, and way of arrival.

    each: how many of the prompts a case decodes, those behind the last case's, in a circle; at least one batch.
    rows: those that are known, to which each case adds one.
    """
    plain = Plan(schedule="plain", verification="coupled")
    expected: dict[int, list[int]] = {}
    turns = itertools.cycle(range(len(prompts)))
    shuffle = random.Random(0)
    known = {(row["plan"], row["batch"], row["prompts"]) for row in rows}
    for name, plan in {"plain": plain, **plans}.items():
        for size in batches:
            for how in ("whole prompts", "chunks of 16, another order"):
                if (name, size, how) == ("plain", 1, "whole prompts"):
                    continue
                order = [*itertools.islice(turns, min(max(each, size), len(prompts)))]
                chunk = None
                if how != "whole prompts":
                    shuffle.shuffle(order)
                    chunk = 16
                if (name, size, how) in known:
                    continue
                expected = expected or decoded(ensemble, plain, 1, prompts, params, range(len(prompts)))
                found = decoded(ensemble, plan, size, prompts, params, order, chunk)
                num = sum(expected[i] == found[i] for i in order)
                rows.append({"plan": name, "batch": size, "prompts": how, "equal": num, "texts": len(order)})
                print(f"  {name}, {size} at a time, {how}: {num} of {len(order)} equal", flush=True)
                yield


def decoded(
    ensemble: Ensemble,
    plan: Plan,
    size: int,
    prompts: Sequence[str],
    params: SamplingParams,
    order: Sequence[int],
    chunk: int | None = None,
) -> dict[int, list[int]]:
    """The texts by prompt, so many at a time. chunk: tokens of a prompt fed in a round, None for the engine's own."""
    usual = prefill.FEWEST, prefill.MOST
    prefill.FEWEST, prefill.MOST = (chunk, chunk) if chunk else usual
    try:
        running = ensemble.with_plan(plan)
        running.max_sequences = size
        return texts(running, prompts, params, order)
    finally:
        prefill.FEWEST, prefill.MOST = usual


def speeds(
    ensembles: dict[str, Ensemble], prompts: Sequence[str], num_tokens: int, repeats: int
) -> list[dict[str, Any]]:
    """Median tokens a second of `plain` under both numerics, at 1 and 16 texts, in turns; and the ratio."""
    rows = []
    params = SamplingParams(max_tokens=num_tokens, seed=1, ignore_eos=True)
    for size in (1, 16):
        asked = [prompts[i % len(prompts)] for i in range(size)]
        found: dict[str, list[float]] = {name: [] for name in ensembles}
        for _ in range(repeats + 1):
            for name, ensemble in ensembles.items():
                running = ensemble.with_plan(schedule="plain", gamma=None, proposer=None, first=None)
                running.max_sequences = size
                started = time.perf_counter()
                results = running.generate(asked, params)
                found[name].append(sum(len(result.token_ids) for result in results) / (time.perf_counter() - started))
        medians = {name: statistics.median(values[1:]) for name, values in found.items()}
        rows.append({"texts": size, **medians, "cost": medians["default"] / medians["invariant"]})
        print(f"  {size} texts: {medians}, {rows[-1]['cost']:.2f} times as long", flush=True)
    return rows


def begun(asked: argparse.Namespace) -> dict[str, Any]:
    """What a run with these options has left in its file, or nothing yet."""
    options = {key: str(value) for key, value in vars(asked).items()}
    if asked.out is not None and asked.out.exists():
        left: dict[str, Any] = json.loads(asked.out.read_text())
        if left["asked"] == options:
            return left
    return {"asked": options, "equal": {}}


def write(out: Path | None, result: dict[str, Any]) -> None:
    if out is not None:
        out.write_text(json.dumps(result, indent=1))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ensemble", nargs="+", help="a bundled ensemble, a YAML file, or models")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--proposer", help="a model that drafts, or lookup")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--each", type=int, help="of the prompts, how many a case decodes, in turn (default: all)")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 3, 8])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.0], help="0: greedy; else coupled")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--control", action="store_true", help="count equal texts under default numerics too")
    parser.add_argument("--speed-only", action="store_true")
    parser.add_argument("--out", type=Path, help="a file of JSON, written after each case")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    started = time.perf_counter()
    ensembles = {}
    for numerics in ("default", "invariant"):
        ensembles[numerics] = made(asked.ensemble, numerics, asked.dtype, asked.proposer)
        print(f"{numerics}: loaded in {time.perf_counter() - started:.1f} s", flush=True)
        started = time.perf_counter()
    bundled = demo.prompts()
    prompts = [f"{bundled[i % len(bundled)]}{' ' * (i // len(bundled))}" for i in range(asked.prompts)]
    result = begun(asked)
    for numerics in () if asked.speed_only else ("invariant", *(["default"] if asked.control else [])):
        ensemble = ensembles[numerics]
        plans = {name: plan for name, plan in tested_plans(ensemble).items() if plan.name != "mixture"}
        plans = {name: replace(plan, verification="coupled") for name, plan in plans.items()}
        for temperature in asked.temperatures:
            title = f"{numerics}, {'coupled' if temperature else 'greedy'}"
            print(title, flush=True)
            params = SamplingParams(max_tokens=asked.max_tokens, temperature=temperature, seed=3, ignore_eos=True)
            rows = result["equal"].setdefault(title, [])
            for _ in compared(ensemble, prompts, params, asked.batches, plans, asked.each or asked.prompts, rows):
                write(asked.out, result)
    print("speed of plain", flush=True)
    result["speed"] = speeds(ensembles, prompts, asked.max_tokens, asked.repeats)
    write(asked.out, result)
    print(json.dumps({"speed": result["speed"]}))


if __name__ == "__main__":
    main()

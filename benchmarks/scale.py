"""cospec's server and vLLM beside each other: the same ensembles, the same requests by the same client.

    make vllm
    python benchmarks/scale.py --vllm .venv-vllm/bin/python --out benchmarks/DATE/scale.json

Of each ensemble four servers are started one after another: cospec's (plain, and auto with the drafter) and vLLM (the
ensemble alone, and with the drafter as --speculative-config). Each is asked by 1, 4, 16 and 32 clients, at temperature
0, at which vLLM's CPU build verifies drafts rightly; see serving.py. The members of 400 M parameters are the bundled
ones inflated, see inflate.py: as slow, and as alike. About 15 minutes on two cores. The last line is one
JSON document, and --out keeps it.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from inflate import SHAPES, inflate
from serving import measure, memory_of, started

CLIENTS = "1,4,16,32"


@dataclass(frozen=True)
class Case:
    """An ensemble, its drafter, and how much is asked of it: completions a client, and tokens of each."""

    ensemble: str
    proposer: str
    requests: int
    tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True, metavar="PYTHON", help="of the environment that has vLLM")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="keep the results there")
    parser.add_argument("--only", default="bundled,smollm2,400m", help="which ensembles (bundled,smollm2,400m)")
    parser.add_argument("--dtype", default="bfloat16", help="of the inflated members (bfloat16)")
    parser.add_argument("--concurrency", default=CLIENTS, help=f"clients at a time ({CLIENTS})")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = {name: case_of(name, Path(folder), arguments.dtype) for name in arguments.only.split(",")}
        report = {name: compared(case, arguments) for name, case in cases.items()}
    text = json.dumps(report)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")
    print_table(report)
    print(text)


def case_of(name: str, folder: Path, dtype: str) -> Case:
    """dtype: of the members of 400 M parameters."""
    if name == "bundled":
        return Case("demo:we", "demo:drafter", requests=4, tokens=64)
    if name == "smollm2":
        return Case("demo:chat-we", "demo:smollm2-we-drafter", requests=1, tokens=32)
    if name != "400m":
        sys.exit(f"unknown ensemble {name!r}; choose among bundled, smollm2, 400m")
    models = [f"demo:{each}" for each in ("math", "general")]
    for model in models:
        inflate(model, folder / model.removeprefix("demo:"), SHAPES["400m"], getattr(torch, dtype))
    file = folder / "large.yaml"
    members = [str(folder / model.removeprefix("demo:")) for model in models]
    file.write_text(yaml.safe_dump({"members": members, "dtype": dtype}))
    return Case(str(file), "demo:drafter", requests=1, tokens=16)


def compared(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rows by server."""
    servers = {
        "cospec plain": {"schedule": "plain"},
        "cospec auto": {"proposer": case.proposer},
        "vllm": {"vllm": arguments.vllm},
        "vllm with the drafter": {"vllm": arguments.vllm, "proposer": case.proposer},
    }
    found = {}
    for name, own in servers.items():
        print(f"{case.ensemble}: {name}", flush=True)
        asked = {
            "requests": case.requests,
            "tokens": case.tokens,
            "concurrency": arguments.concurrency,
            "temperature": 0.0,
        }
        options = {"ensemble": case.ensemble, "proposer": None, "schedule": None, "vllm": None, **asked, **own}
        given = argparse.Namespace(**options)
        with started(given) as (url, process):
            rows = asyncio.run(measure(url, given))
            found[name] = {"rows": rows, "memory_mib": memory_of(process.pid)}
    return found


def print_table(report: dict[str, Any]) -> None:
    """Markdown, a line for each ensemble, server and number of clients."""
    print("| ensemble | server | clients | tokens/s | first token, ms: median, 95 % | MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for ensemble, servers in report.items():
        for server, own in servers.items():
            for row in own["rows"]:
                first = f"{row['first_ms_median']:.0f}, {row['first_ms_95']:.0f}"
                speed, memory = f"{row['tokens_per_second']:.1f}", f"{own['memory_mib']:.0f}"
                print(f"| {ensemble} | {server} | {row['clients']} | {speed} | {first} | {memory} |")


if __name__ == "__main__":
    main()

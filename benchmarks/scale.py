"""cospec's server and vLLM beside each other: the same ensembles, the same requests by the same client.

    make vllm
    python benchmarks/scale.py --vllm .venv-vllm/bin/python --out benchmarks/DATE/scale.json

Of each ensemble six servers are started one after another: cospec's (plain, and auto with the drafter) and vLLM (the
ensemble alone, and with the drafter as --speculative-config), which compiles the members or does not (eager). Each is
asked by 1, 4, 16 and 32 clients, at temperature 0, at which vLLM's CPU build verifies drafts rightly; see serving.py.
The members of 400 M parameters are the bundled ones inflated, see inflate.py: as slow, and as alike.

vLLM compiles each member before it serves, for minutes where it has many layers, and its CPU build cannot read again
what it compiled; how long a server has been starting is printed. What is exported and inflated stays in the folder
--work, so that a later start takes it from there; remove the folder after a change of cospec.

A run may be cut in pieces. --out is written after each row, and a row that it has is not measured again:

    python benchmarks/scale.py --vllm .venv-vllm/bin/python --out scale.json --only smollm2 --servers vllm

The last line is one JSON document, what --out holds.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from inflate import SHAPES, inflate
from serving import memory_of, row_of, started, warm_up

from cospec.errors import CospecError
from cospec.resume import check_settings
from cospec.storage import keep

CLIENTS = "1,4,16,32"
CASES = ("bundled", "smollm2", "400m")
# Name -> what is served.
SERVERS: dict[str, dict[str, Any]] = {
    "cospec plain": {"is_vllm": False, "schedule": "plain", "drafts": False, "eager": False},
    "cospec auto": {"is_vllm": False, "schedule": None, "drafts": True, "eager": False},
    "vllm": {"is_vllm": True, "schedule": "plain", "drafts": False, "eager": False},
    "vllm with the drafter": {"is_vllm": True, "schedule": None, "drafts": True, "eager": False},
    "vllm eager": {"is_vllm": True, "schedule": "plain", "drafts": False, "eager": True},
    "vllm eager with the drafter": {"is_vllm": True, "schedule": None, "drafts": True, "eager": True},
}
Report = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """An ensemble, its drafter, and how much is asked of it: completions a client, of all clients at least, and
    tokens of each."""

    ensemble: str
    proposer: str
    requests: int
    least: int
    tokens: int

    def requests_of(self, clients: int) -> int:
        """Completions of each of so many clients."""
        return max(self.requests, -(-self.least // clients))


def main() -> None:
    arguments = parsed()
    path, work = arguments.out, arguments.work.resolve()
    names, servers = arguments.only.split(","), arguments.servers.split(",")
    try:
        report = read(path)
        for name in names:
            folder = work / (f"{name}-{arguments.dtype}" if name == "400m" else name)
            case = case_of(name, folder, arguments.dtype)
            for server in servers:
                for own in measured(case, server, report.get(name, {}).get(server), folder, arguments):
                    report.setdefault(name, {})[server] = own
                    if path is not None:
                        keep(path, json.dumps(report) + "\n")
    except CospecError as error:
        sys.exit(str(error))
    print_table(report)
    print(json.dumps(report))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True, metavar="PYTHON", help="of the environment that has vLLM")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="keep the results there, and go on from it")
    parser.add_argument("--only", default=",".join(CASES), help=f"which ensembles ({','.join(CASES)})")
    parser.add_argument("--servers", default=",".join(SERVERS), help=f"which servers ({','.join(SERVERS)})")
    parser.add_argument("--dtype", default="bfloat16", help="of the inflated members (bfloat16)")
    parser.add_argument("--concurrency", default=CLIENTS, help=f"clients at a time ({CLIENTS})")
    parser.add_argument("--tokens", type=int, help="tokens a completion, instead of each ensemble's own number")
    parser.add_argument(
        "--work", type=Path, default=Path("build/scale"), metavar="FOLDER", help="of what is made once (build/scale)"
    )
    arguments = parser.parse_args()
    for given, known in ((arguments.only, CASES), (arguments.servers, SERVERS)):
        for name in given.split(","):
            if name not in known:
                parser.error(f"{name!r} is none of {', '.join(known)}")
    return arguments


def read(path: Path | None) -> Report:
    """What a file has already. Raises CospecError for another one."""
    if path is None or not path.exists():
        return {}
    try:
        report = json.loads(path.read_text())
    except ValueError:
        report = None
    if not isinstance(report, dict) or not {*report} <= {*CASES}:
        raise CospecError(f"{path} is no file of this script; give another one")
    return report


def case_of(name: str, folder: Path, dtype: str) -> Case:
    """dtype, folder: of the members of 400 M parameters, which are written once."""
    if name == "bundled":
        return Case("demo:we", "demo:drafter", requests=4, least=4, tokens=64)
    if name == "smollm2":
        return Case("demo:chat-we", "demo:smollm2-we-drafter", requests=1, least=4, tokens=32)
    models = {model: folder / model for model in ("math", "general")}
    for model, own in models.items():
        # Its tokenizer is written last.
        if not (own / "tokenizer_config.json").is_file():
            inflate(f"demo:{model}", own, SHAPES["400m"], getattr(torch, dtype))
    file = folder / f"{folder.name}.yaml"
    keep(file, yaml.safe_dump({"members": [*map(str, models.values())], "dtype": dtype}))
    return Case(str(file), "demo:drafter", requests=1, least=2, tokens=16)


def measured(
    case: Case, server: str, kept: dict[str, Any] | None, folder: Path, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """What is known of a server after each further row; nothing where all rows were kept.

    Raises CospecError where they were measured with other settings."""
    tokens = arguments.tokens or case.tokens
    settings = asdict(case) | {"tokens": tokens, "ensemble": Path(case.ensemble).name}
    if kept is not None:
        remedy = "Give the same settings to go on, or another file"
        check_settings(f"{arguments.out}: {server!r}", kept.get("settings"), settings, remedy)
    rows = list(kept["rows"]) if kept else []
    missing = [int(each) for each in arguments.concurrency.split(",") if int(each) not in {r["clients"] for r in rows}]
    if not missing:
        return
    print(f"{case.ensemble}: {server}", flush=True)
    own = SERVERS[server]
    given = argparse.Namespace(
        ensemble=case.ensemble,
        proposer=case.proposer if own["drafts"] else None,
        schedule=own["schedule"],
        vllm=arguments.vllm if own["is_vllm"] else None,
        enforce_eager=own["eager"],
        work=folder / ("drafting" if own["drafts"] else "alone"),
        tokens=tokens,
        temperature=0.0,
    )
    with started(given) as (url, process):
        asyncio.run(warm_up(url, given))
        for clients in missing:
            given.requests = case.requests_of(clients)
            rows.append(asyncio.run(row_of(url, clients, given)))
            rows.sort(key=lambda row: row["clients"])
            yield {"settings": settings, "rows": rows, "memory_mib": memory_of(process.pid)}


def print_table(report: Report) -> None:
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

"""Throughput and latencies of a server under load, at several numbers of concurrent clients.

    python benchmarks/serving.py --ensemble demo:we --proposer demo:drafter
    python benchmarks/serving.py --url http://127.0.0.1:8000
    python benchmarks/serving.py --vllm .venv-vllm/bin/python --ensemble demo:we --proposer demo:drafter

Each client streams completions of the bundled prompts, of a fixed length (`ignore_eos`), one after another. Without
--url a server is started for the run, and --flood N then sends N short completions, a third of which are cancelled
midway, and prints the server's memory after each tenth. With --vllm, a Python in whose environment vLLM and cospec are
(make vllm), vLLM serves what `cospec export` makes of the ensemble. The last line is one JSON document.

All clients are one light process (aiohttp, and of a stream no chunk but the last is parsed): where they share the
server's cores, the time that they take lowers the measured throughput.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from cospec import demo
from cospec.storage import keep

COSPEC = (sys.executable, "-c", "from cospec.cli import main; main()")
# vLLM compiles at its first start, member by member; so often it is said that the server is not ready yet.
SECONDS_TO_START, SECONDS_BETWEEN_NOTES = 2400, 30
MIB = 2**20
# Of vLLM's CPU build, where the environment says nothing else: all cores, as cospec has them, and room for its caches.
VLLM_SETTINGS = {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1"}


@dataclass(frozen=True)
class Timing:
    """One completion. first, end: seconds from the request to the first chunk and to the last. num_tokens: of the
    server's usage."""

    first: float
    end: float
    num_tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--ensemble", default="demo:we", help="what to serve otherwise (demo:we)")
    parser.add_argument("--proposer", help="a drafter to serve it with")
    parser.add_argument("--schedule", help="a schedule to serve it with")
    parser.add_argument("--vllm", metavar="PYTHON", help="serve it with vLLM, of this environment")
    parser.add_argument("--concurrency", default="1,4,16,32", help="clients at a time (1,4,16,32)")
    parser.add_argument("--requests", type=int, default=4, help="completions a client (4)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens a completion (64)")
    parser.add_argument("--temperature", type=float, default=1.0, help="that texts are sampled at (1)")
    parser.add_argument("--flood", type=int, default=0, help="short completions, to watch the server's memory (0)")
    parser.add_argument("--enforce-eager", action="store_true", help="with --vllm: do not compile")
    parser.add_argument(
        "--work",
        type=Path,
        metavar="FOLDER",
        help="with --vllm: keep what is exported, and what the server prints, there",
    )
    arguments = parser.parse_args()
    if arguments.url and arguments.flood:
        parser.exit(2, "--flood reads the memory of a server that it starts itself; leave --url out\n")
    report: dict[str, Any] = {"arguments": vars(arguments)}
    try:
        if arguments.url:
            report["rows"] = asyncio.run(measure(arguments.url, arguments))
        else:
            with started(arguments) as (url, process):
                report["rows"] = asyncio.run(measure(url, arguments))
                report["memory_mib"] = memory_of(process.pid)
                print(f"{report['memory_mib']:.0f} MiB")
                report["mib"] = asyncio.run(flood(url, process.pid, arguments.flood))
    except aiohttp.ClientError as error:
        sys.exit(f"the server does not answer: {error}")
    print(json.dumps(report, default=str))


def serve_options(arguments: argparse.Namespace) -> list[str]:
    """The command-line options of `cospec serve`."""
    options = {"ensemble": arguments.ensemble, "proposer": arguments.proposer, "schedule": arguments.schedule}
    return [part for name, value in options.items() if value for part in (f"--{name}", value)]


@contextlib.contextmanager
def started(arguments: argparse.Namespace) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """cospec's own server, or vLLM's with --vllm, of the ensemble."""
    if arguments.vllm is None:
        with served([*COSPEC, "serve", *serve_options(arguments)]) as running:
            yield running
        return
    with contextlib.ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _, _, *rest = exported(arguments, work.resolve())
        # `vllm serve` is this module's, by another name.
        module = [arguments.vllm, "-m", "vllm.entrypoints.openai.api_server", "--model"]
        eager = ["--enforce-eager"] if arguments.enforce_eager else []
        command = [*module, *rest, "--max-num-seqs", "32", *eager]
        log = work / "server.log" if arguments.work else None
        yield stack.enter_context(served(command, log))


def exported(arguments: argparse.Namespace, work: Path) -> list[str]:
    """The command of `cospec export`, which is run unless the folder has what it wrote."""
    done = work / "command.json"
    if not done.is_file():
        print("exporting", flush=True)
        command = [*COSPEC, "export", *serve_options(arguments), str(work / "ensemble"), "--for", "vllm", "--json"]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        keep(done, json.dumps(json.loads(answer)["command"]))
    command = json.loads(done.read_text())
    assert isinstance(command, list)
    return command


def memory_of(pid: int) -> float:
    """What a server's processes hold in MiB, what they share counted once."""
    process = psutil.Process(pid)
    return sum(each.memory_full_info().pss for each in (process, *process.children(recursive=True))) / MIB


@contextlib.contextmanager
def served(command: list[str], log: Path | None = None) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """The address and process of a server that ends with the block. command: without --port. log: of what it prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        output = None if log is None else stack.enter_context(log.open("wb"))
        environment = VLLM_SETTINGS | os.environ
        process = subprocess.Popen([*command, "--port", str(port)], env=environment, stdout=output, stderr=output)
        try:
            wait_for(url, process, log)
            yield url, process
        finally:
            process.terminate()
            process.wait()


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path | None) -> None:
    """Until the server answers; how long that took is printed, and meanwhile how long it takes already."""
    begin = noted = time.monotonic()
    while (now := time.monotonic()) < begin + SECONDS_TO_START and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health") as answer:
            if answer.status == 200:
                print(f"the server is ready after {now - begin:.0f} s", flush=True)
                return
        if now > noted + SECONDS_BETWEEN_NOTES:
            noted = now
            print(f"the server has been starting for {now - begin:.0f} s", flush=True)
        time.sleep(0.1)
    sys.exit("the server did not start" + (f"; see {log}" if log else ""))


def connected(url: str, limit: int = 0) -> aiohttp.ClientSession:
    """As many connections at a time as `limit`, 0 for any number."""
    connector = aiohttp.TCPConnector(limit=limit)
    return aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(total=None))


async def measure(url: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each number of clients, printed as it is measured."""
    await warm_up(url, arguments)
    return [await row_of(url, int(clients), arguments) for clients in arguments.concurrency.split(",")]


async def warm_up(url: str, arguments: argparse.Namespace) -> None:
    """So that `auto`'s first measurements, compilation and allocation are not timed; then the head of the table."""
    async with connected(url) as client:
        await load(client, 2, 2, arguments)
    print("| clients | tokens/s | first token, ms: median, 95 % | a token, ms: median |")
    print("| --- | --- | --- | --- |")


async def row_of(url: str, clients: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """What so many clients at a time measure, which is printed."""
    async with connected(url) as client:
        started = time.perf_counter()
        timings = await load(client, clients, arguments.requests, arguments)
        row = summary(clients, timings, time.perf_counter() - started)
    print(
        f"| {clients} | {row['tokens_per_second']:.1f} | {row['first_ms_median']:.0f}, {row['first_ms_95']:.0f} | "
        f"{row['token_ms_median']:.1f} |",
        flush=True,
    )
    return row


async def load(
    client: aiohttp.ClientSession, clients: int, requests: int, arguments: argparse.Namespace
) -> list[Timing]:
    """`clients` concurrent clients, each with `requests` completions one after another."""
    prompts = demo.prompts()

    async def run(index: int) -> list[Timing]:
        each = [prompts[(index * requests + i) % len(prompts)] for i in range(requests)]
        return [await completion(client, prompt, arguments) for prompt in each]

    return [timing for timings in await asyncio.gather(*map(run, range(clients))) for timing in timings]


async def flood(url: str, pid: int, count: int) -> list[float]:
    """The server's resident memory in MiB after each tenth of `count` short completions, 32 at a time."""
    memory = []
    async with connected(url, limit=32) as client:
        for _ in range(10 if count else 0):
            await asyncio.gather(*(short(client, index) for index in range(count // 10)))
            memory.append(psutil.Process(pid).memory_info().rss / MIB)
            print(f"{memory[-1]:.1f} MiB", flush=True)
    return memory


async def short(client: aiohttp.ClientSession, index: int) -> None:
    """A completion of 4 tokens; every third one is cancelled at its first chunk."""
    prompts = demo.prompts()
    body = {"prompt": prompts[index % len(prompts)], "max_tokens": 4 if index % 3 else 400, "stream": True}
    async with client.post("/v1/completions", json=body) as answer:
        async for _ in chunks(answer):
            if index % 3 == 0:
                return


async def completion(client: aiohttp.ClientSession, prompt: str, arguments: argparse.Namespace) -> Timing:
    body = {
        "prompt": prompt,
        "max_tokens": arguments.tokens,
        "temperature": arguments.temperature,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started, first, last = time.perf_counter(), None, b"{}"
    async with client.post("/v1/completions", json=body) as answer:
        if answer.status != 200:
            sys.exit(f"the server answered {answer.status}: {await answer.text()}")
        async for chunk in chunks(answer):
            first = first or time.perf_counter() - started
            last = chunk
    final = json.loads(last)
    if first is None or not final.get("usage"):
        sys.exit(f"the server gave up: {last.decode()}")
    return Timing(first, time.perf_counter() - started, final["usage"]["completion_tokens"])


async def chunks(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The JSON of each server-sent event, not parsed."""
    async for line in answer.content:
        if line.startswith(b"data: {"):
            yield line.removeprefix(b"data: ")


def summary(clients: int, timings: list[Timing], seconds: float) -> dict[str, Any]:
    firsts = sorted(1000 * timing.first for timing in timings)
    each = [1000 * (timing.end - timing.first) / max(1, timing.num_tokens - 1) for timing in timings]
    return {
        "clients": clients,
        "completions": len(timings),
        "tokens": sum(timing.num_tokens for timing in timings),
        "seconds": seconds,
        "tokens_per_second": sum(timing.num_tokens for timing in timings) / seconds,
        "first_ms_median": statistics.median(firsts),
        "first_ms_95": firsts[min(len(firsts) - 1, int(0.95 * len(firsts)))],
        "token_ms_median": statistics.median(each),
    }


if __name__ == "__main__":
    main()

"""Many clients at once: none lost, none stuck, nothing left behind, and no text changed by its neighbours."""

import asyncio
import gc
import json
import random
import subprocess
import sys
from pathlib import Path

import openai
import psutil
import pytest

from cospec import demo

from .conftest import MODEL

REQUESTS, AT_ONCE = 120, 32
# The texts of these are compared with those that they have alone.
SEEDED = [index for index in range(1, REQUESTS, 13) if index % 3]


def request(index):
    """Prompts and lengths of every kind; a third leave midway."""
    draws = random.Random(index)
    prompts = demo.prompts()
    prompt = prompts[index % len(prompts)][: draws.randrange(8, 200)]
    return {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": draws.choice([1, 2, 4, 8, 12, 16]),
        "seed": index,
        "temperature": draws.choice([0.7, 1.0]),
    }


def leaves(index):
    return index % 3 == 0


async def answered(client, index):
    """What became of one request: its text, or that its client left."""
    options = request(index)
    if leaves(index):
        return await left(client, options, index)
    if index % 2:
        return (await client.completions.create(**options)).choices[0].text
    text, reasons = "", []
    async for chunk in await client.completions.create(**options, stream=True):
        text += chunk.choices[0].text
        reasons.append(chunk.choices[0].finish_reason)
    assert reasons[-1] in ("stop", "length")
    return text


async def left(client, options, index):
    options |= {"max_tokens": 600, "extra_body": {"ignore_eos": True}}
    if index % 2:
        with pytest.raises(openai.APITimeoutError):
            await client.completions.create(**options, timeout=0.2)
        return
    async with await client.completions.create(**options, stream=True) as stream:
        async for _ in stream:
            return


async def under_load(served, indices):
    """The texts by index, of so many at once."""
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        places = asyncio.Semaphore(AT_ONCE)

        async def one(index):
            async with places:
                return await asyncio.wait_for(answered(client, index), 100)

        return dict(zip(indices, await asyncio.gather(*map(one, indices)), strict=True))


def lent(served):
    """How many slots each runner has given away and not got back."""
    runners = [participant.runner for participant in served.host.engine.participants]
    return [runner._num_slots - len(runner._free) for runner in runners]


# What a client leaves half read is closed by its event loop, which may come upon a generator that is closing already.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <async_generator object (AsyncResponseStream|BoundAsyncStream)"
    ":pytest.PytestUnraisableExceptionWarning"
)
def test_none_is_lost_none_is_stuck_and_nothing_stays(served):
    assert served.becomes_idle()
    before = lent(served)
    texts = asyncio.run(under_load(served, range(REQUESTS)))
    assert [index for index, text in texts.items() if text is None] == [i for i in range(REQUESTS) if leaves(i)]
    assert served.becomes_idle(5)
    assert lent(served) == before
    with served.client() as client:
        for index in SEEDED:
            alone = client.completions.create(**request(index)).choices[0].text
            assert texts[index] == alone, index


@pytest.mark.long
def test_memory_is_flat(served):
    """Over 200 requests here; over 2,000 in benchmarks/README.md."""
    process = psutil.Process()

    def short(count):
        options = {"model": MODEL, "prompt": "Tom has 3", "max_tokens": 2}

        async def run():
            async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
                places = asyncio.Semaphore(16)

                async def one():
                    async with places:
                        await client.completions.create(**options)

                await asyncio.gather(*(one() for _ in range(count)))

        asyncio.run(run())
        gc.collect()
        return process.memory_info().rss / 2**20

    before = short(100)
    after = short(200)
    assert after - before < 12
    assert served.becomes_idle()


def test_the_benchmark_reads_what_the_server_streams(served):
    script = Path(__file__).parents[2] / "benchmarks" / "serving.py"
    command = [sys.executable, script, "--url", served.url, "--concurrency", "1,3", "--requests", "2", "--tokens", "9"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stderr
    rows = json.loads(shown.stdout.splitlines()[-1])["rows"]
    assert [(row["clients"], row["completions"], row["tokens"]) for row in rows] == [(1, 2, 18), (3, 6, 54)]
    assert all(row["tokens_per_second"] > 0 for row in rows)

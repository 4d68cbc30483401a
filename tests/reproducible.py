"""A server that promises one text a seed, asked for the same text alone and beside other requests."""

from concurrent.futures import ThreadPoolExecutor

import openai

from cospec import Ensemble, SamplingParams

ENSEMBLE = "demo:we"
PROMPT = "Question: How much is 17 + 25?\nAnswer:"
SEED, MAX_TOKENS = 11, 24
# What such a server asks of its ensembles, and may be asked for by a request.
ASKED = {"numerics": "invariant", "verification": "coupled"}
SCHEDULES = [None, "plain", "fixed", "alternate"]


def text_of_plain() -> str:
    """What the seed writes without a server, under the schedule that drafts nothing."""
    params = SamplingParams(max_tokens=MAX_TOKENS, seed=SEED, ignore_eos=True)
    (result,) = Ensemble.load(ENSEMBLE, schedule="plain", **ASKED).generate([PROMPT], params)
    return result.text


def texts_alone_and_beside_others(client: openai.OpenAI) -> set[str]:
    """The texts of the seed: under each schedule alone, then under all at once, among requests of other lengths."""

    def text(schedule: str | None) -> str:
        return ask(client, prompt=PROMPT, seed=SEED, schedule=schedule)

    alone = [text(schedule) for schedule in SCHEDULES]
    with ThreadPoolExecutor(3 * len(SCHEDULES)) as pool:
        others = [pool.submit(ask, client, prompt=PROMPT * (1 + i % 3), seed=i) for i in range(8)]
        beside = [*pool.map(text, SCHEDULES)]
    assert all(other.result() for other in others)
    return {*alone, *beside}


def ask(client: openai.OpenAI, *, prompt: str, seed: int, schedule: str | None = None) -> str:
    asked = {"ignore_eos": True} if schedule is None else {"ignore_eos": True, "schedule": schedule}
    answer = client.completions.create(
        model=ENSEMBLE, prompt=prompt, seed=seed, max_tokens=MAX_TOKENS, extra_body=asked
    )
    assert answer.metrics["verification"] == "coupled"
    return answer.choices[0].text

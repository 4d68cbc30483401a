"""Several ensembles behind one server: chosen by `model`, equal members loaded once, forward passes in turn."""

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from cospec import Ensemble, Mixture
from cospec.members import shared_runners
from cospec.server.app import create_app
from cospec.server.settings import InvalidSettings, ServerSettings

from .conftest import Served

ASKED = {"max_tokens": 40, "extra_body": {"ignore_eos": True}}
WEIGHTS = {"even": (0.5, 0.5), "uneven": (0.9, 0.1)}


@pytest.fixture(scope="module")
def ensembles():
    with shared_runners():
        return {
            name: Ensemble(["demo:math", "demo:general"], Mixture(weights), proposer="demo:drafter")
            for name, weights in WEIGHTS.items()
        }


@pytest.fixture(scope="module")
def several(ensembles):
    with Served(ensembles, model="even", max_sequences=8, calls_at_once=2) as running:
        yield running


@pytest.fixture
def its_client(several):
    with contextlib.closing(several.client()) as made:
        yield made


def test_requests_that_name_no_model_need_one_that_is_served(ensembles):
    with pytest.raises(InvalidSettings, match="one of the ensembles, even, uneven"):
        create_app(ensembles, ServerSettings(model="other"))


def test_equal_members_are_loaded_once_and_others_are_not_shared(ensembles):
    even, uneven = ensembles.values()
    assert all(one is other for one, other in zip(even.runners, uneven.runners, strict=True))
    with shared_runners():
        one = Ensemble(["demo:math"], proposer="lookup+past")
        other = Ensemble(["demo:math", "demo:general"], proposer="lookup+past")
        third = Ensemble(["demo:math"], dtype="float64")
    assert one.runners[0] is other.runners[0]
    assert one.runners[-1] is not other.runners[-1]
    assert third.runners[0] is not one.runners[0]
    assert Ensemble(["demo:math"]).runners[0] is not one.runners[0]


def test_each_is_listed_and_chosen_by_its_name(several, its_client):
    listed = {model.id: model.cospec["combination"]["weights"] for model in its_client.models.list().data}
    assert listed == {name: list(weights) for name, weights in WEIGHTS.items()}
    assert its_client.models.retrieve("uneven").id == "uneven"
    texts = {}
    for name in WEIGHTS:
        answer = its_client.completions.create(model=name, prompt="Once", seed=1, **ASKED)
        assert answer.model == name
        texts[name] = answer.choices[0].text
    assert texts["even"] != texts["uneven"]
    with several.http() as http:
        # The first is that of requests that name none.
        body = {"prompt": "Once", "seed": 1, "max_tokens": 40, "ignore_eos": True}
        assert http.post("/v1/completions", json=body).json()["choices"][0]["text"] == texts["even"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "Once"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/responses", {"input": "Hi"}),
        ("/tokenize", {"prompt": "Once"}),
        ("/detokenize", {"tokens": [5]}),
    ],
)
def test_a_model_that_is_not_served_is_refused_with_those_that_are(several, path, body):
    with several.http() as http:
        answer = http.post(path, json=body | {"model": "other"})
        assert answer.status_code == 404
        assert answer.json()["error"]["param"] == "model"
        assert "'even', 'uneven'" in answer.json()["error"]["message"]
        assert http.get("/tokenizer_info", params={"model": "other"}).status_code == 404
        assert http.get("/v1/models/other").status_code == 404


def test_under_load_each_gives_the_texts_that_it_gives_alone(several, its_client):
    """Forward passes of a shared member never overlap: its cache has sequences of both."""
    prompts = ["Question: How much is 2 + 2?\nAnswer:", "Once upon a time", "The", "Tom has 3 boxes."]
    jobs = [(name, prompt, seed) for seed in range(3) for prompt in prompts for name in WEIGHTS]

    def text(name, prompt, seed):
        return its_client.completions.create(model=name, prompt=prompt, seed=seed, **ASKED).choices[0].text

    alone = {}
    for name, weights in WEIGHTS.items():
        ensemble = Ensemble(["demo:math", "demo:general"], Mixture(weights), proposer="demo:drafter")
        with Served(ensemble, model=name) as running, contextlib.closing(running.client()) as client:
            for _, prompt, seed in (job for job in jobs if job[0] == name):
                answer = client.completions.create(model=name, prompt=prompt, seed=seed, **ASKED)
                alone[name, prompt, seed] = answer.choices[0].text
    with ThreadPoolExecutor(len(jobs)) as beside:
        together = dict(zip(jobs, beside.map(lambda job: text(*job), jobs), strict=True))
    assert together == alone
    assert several.becomes_idle()


def test_forward_passes_of_all_run_in_one_thread_and_places_are_shared(ensembles):
    threads, most = set(), 0
    runner = ensembles["even"].runners[0]
    feed = runner.feed
    app = create_app(ensembles, ServerSettings(model="even", max_sequences=3, max_waiting=20))
    hosts = app.state.hosts

    def watched(batch):
        nonlocal most
        threads.add(threading.get_ident())
        most = max(most, sum(host.engine.num_live for host in hosts.values()))
        return feed(batch)

    runner.feed = watched
    try:
        with Served(app) as running, contextlib.closing(running.client()) as client, ThreadPoolExecutor(8) as beside:
            names = [*WEIGHTS] * 4
            made = beside.map(lambda name: client.completions.create(model=name, prompt="Once", **ASKED), names)
            assert all(answer.usage.completion_tokens == 40 for answer in made)
    finally:
        del runner.feed
    assert len(threads) == 1
    assert most == 3


def test_metrics_are_those_of_each_model(several, its_client):
    before = {name: _tokens(several, name) for name in WEIGHTS}
    its_client.completions.create(model="uneven", prompt="Once", **ASKED)
    after = {name: _tokens(several, name) for name in WEIGHTS}
    assert after == before | {"uneven": before["uneven"] + 40}


def _tokens(several, name):
    with several.http() as http:
        lines = http.get("/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith(f'vllm:generation_tokens_total{{model_name="{name}"}}')]
    return float(line.rpartition(" ")[2])


def test_streams_of_two_models_at_once(several):
    async def both():
        async with openai.AsyncOpenAI(base_url=f"{several.url}/v1", api_key="none") as client:

            async def text(name):
                stream = await client.completions.create(model=name, prompt="Once", seed=2, stream=True, **ASKED)
                return "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])

            return await asyncio.gather(*(text(name) for name in WEIGHTS))

    even, uneven = asyncio.run(both())
    assert even
    assert uneven
    assert even != uneven

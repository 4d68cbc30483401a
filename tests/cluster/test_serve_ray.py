"""The server on a cluster of two nodes: real clients, through Ray's own proxy."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import openai
import pytest
import yaml
from pydantic import ValidationError
from ray import serve

from cospec import Ensemble, SamplingParams
from cospec.errors import CospecError, UnknownName
from cospec.serve_ray import NAME, AppArgs, application, start
from cospec.serve_ray import app as built
from cospec.server.app import create_app
from cospec.server.settings import InvalidSettings, ServerSettings

from ..reproducible import text_of_plain, texts_alone_and_beside_others
from ..signals import hear_interrupts
from .ensembles import POISON, load

MODEL = "killable"
PROMPT = "Question: Tom has 3 boxes with 12 pencils each. How many pencils has he?\nAnswer:"
EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_serve.yaml"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def port(cluster):
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield port
    serve.shutdown()


@pytest.fixture(scope="module")
def url(port):
    """Two replicas; a test that harms one waits for the next."""
    start(application(load, ServerSettings(model=MODEL), num_replicas=2))
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(client, seed, **options):
    return client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=16, seed=seed, **options)


def process(answer):
    """Which replica gave this answer."""
    return next(name for name in answer.metrics["members"] if name.startswith("process"))


def both_processes(client, seconds=60):
    """The two replicas that answer, once two do."""
    until, seen = time.monotonic() + seconds, set()
    while len(seen) < 2:
        assert time.monotonic() < until, f"only {seen} answered"
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(ask, client, seed) for seed in range(8)]
        seen |= {process(each.result()) for each in answers if each.exception() is None}
    return seen


def test_two_replicas_give_the_texts_of_one_ensemble_whole_and_streamed(client):
    assert len(both_processes(client)) == 2
    seeds = range(12)
    whole = [result.text for result in load().generate([PROMPT] * 12, [params(seed) for seed in seeds])]

    def streamed(seed):
        return "".join(chunk.choices[0].text for chunk in ask(client, seed, stream=True) if chunk.choices)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda seed: ask(client, seed), seeds))
        assert [answer.choices[0].text for answer in answers] == whole
        assert len({process(answer) for answer in answers}) == 2
        assert list(pool.map(streamed, seeds)) == whole


def params(seed):
    return SamplingParams(max_tokens=16, seed=seed)


def test_a_stream_comes_piece_by_piece_and_leaves_the_engine_with_its_client(client, url):
    stream = client.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=900, seed=1, stream=True, extra_body={"ignore_eos": True}
    )
    began = time.monotonic()
    next(iter(stream))
    assert num_running(url) == 1
    stream.close()
    while num_running(url):
        # Far sooner than 900 tokens are decoded.
        assert time.monotonic() - began < 4
        time.sleep(0.05)


def num_running(url):
    """The most of several looks, which fall on either replica."""
    texts = [httpx.get(f"{url}/metrics").text.splitlines() for _ in range(12)]
    return max(float(line.split()[-1]) for text in texts for line in text if line.startswith("vllm:num_requests_runn"))


def test_a_replica_whose_engine_has_died_is_replaced_and_the_other_goes_on(client):
    before = both_processes(client)
    with pytest.raises(openai.InternalServerError, match="the engine has died: SystemExit: poisoned"):
        # Long enough that the member is fed under whichever plan, also one that draws members.
        client.completions.create(model=MODEL, prompt=list(POISON), max_tokens=200, extra_body={"ignore_eos": True})
    patient = client.with_options(max_retries=8)
    with ThreadPoolExecutor(4) as pool:
        texts = {answer.choices[0].text for answer in pool.map(lambda _: ask(patient, 3), range(16))}
    assert len(texts) == 1
    until, now = time.monotonic() + 60, both_processes(client)
    while len(now & before) > 1:
        assert time.monotonic() < until, "the dead replica was not replaced"
        now = both_processes(client)
    assert len(now & before) == 1


def test_a_request_under_way_ends_before_the_application_goes(client):
    options = {"model": MODEL, "prompt": PROMPT, "max_tokens": 200, "seed": 2, "extra_body": {"ignore_eos": True}}
    whole = client.completions.create(**options).choices[0].text
    stream = iter(client.completions.create(**options, stream=True))
    text = next(stream).choices[0].text
    leaving = threading.Thread(target=serve.delete, args=[NAME])
    leaving.start()
    assert text + "".join(chunk.choices[0].text for chunk in stream) == whole
    leaving.join(60)
    assert not leaving.is_alive()


def test_replicas_that_are_to_be_reproducible_have_one_text_a_seed_alone_and_beside_others(cluster, port):
    """`args` as in a YAML file: the setting is what asks for numerics and verification."""
    start(built(AppArgs(options={"proposer": "demo:drafter", "schedule": "fixed"}, settings={"reproducible": True})))
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
        assert texts_alone_and_beside_others(client) == {text_of_plain()}
    serve.delete(NAME)


@pytest.mark.parametrize("option", [{"numerics": "default"}, {"verification": "block"}])
def test_a_replica_that_cannot_be_reproducible_is_not_started(option):
    args = AppArgs(options=option, settings={"reproducible": True})
    with pytest.raises(InvalidSettings, match="reproducible asks for numerics: invariant and verification: coupled"):
        create_app(args.load(), args.server_settings())


def test_the_example_runs_as_it_is_shipped(cluster, port, tmp_path):
    config = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    config["http_options"]["port"] = port
    file = tmp_path / "ray_serve.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-c", "from ray.serve.scripts import cli; cli()", "run", str(file), "--address", cluster]
    with subprocess.Popen(
        command, env=os.environ | {"RAY_ADDRESS": cluster}, stderr=subprocess.DEVNULL, preexec_fn=hear_interrupts
    ) as running:
        try:
            assert becomes_healthy(f"http://127.0.0.1:{port}", "demo:we")
            with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
                answer = client.chat.completions.create(
                    model="demo:we", messages=[{"role": "user", "content": "How much is 2 + 3?"}], max_tokens=4
                )
            assert answer.usage.completion_tokens == 4
            assert "drafter" in answer.metrics["drafters"]
        finally:
            running.send_signal(signal.SIGINT)
            try:
                running.wait(30)
            finally:
                running.kill()


def becomes_healthy(url, model, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        # While replicas come up, Ray's proxy may close a connection that it has accepted.
        with contextlib.suppress(httpx.TransportError):
            served = httpx.get(f"{url}/v1/models", timeout=60)
            if served.status_code == 200 and served.json()["data"][0]["id"] == model:
                return httpx.get(f"{url}/health").json()["status"] == "ok"
        time.sleep(0.2)
    return False


def test_replicas_that_cannot_start_say_why(cluster, port):
    with pytest.raises(CospecError, match=r"the replicas cannot start: .*unknown bundled ensemble 'demo:nope'"):
        start(application(partial(Ensemble.load, "demo:nope"), ServerSettings(model=MODEL), max_starts=1))


def test_a_setting_that_there_is_not_is_named():
    with pytest.raises(UnknownName, match="did you mean 'max_waiting'"):
        AppArgs(settings={"max_waitin": 3}).server_settings()


def test_several_ensembles_are_chosen_by_the_model_and_share_their_members(tmp_path):
    other = tmp_path / "other.yaml"
    target = "combine: {type: mixture, weights: [0.9, 0.1]}"
    other.write_text(f"members: [demo:math, demo:general]\n{target}\ndtype: float32\n")
    args = AppArgs(ensemble=["demo:we", str(other)], settings={"log_level": "info"})
    loaded = args.load()
    assert [*loaded] == ["demo:we", str(other)]
    assert loaded["demo:we"].runners[0] is loaded[str(other)].runners[0]
    settings = args.server_settings()
    assert (settings.model, settings.log_level) == ("demo:we", "info")
    assert [*create_app(loaded, settings).state.hosts] == [*loaded]
    with pytest.raises(ValidationError):
        AppArgs(ensemble=[])


def test_keys_come_from_the_file_or_the_environment_and_none_is_empty(monkeypatch):
    assert AppArgs().server_settings().api_keys == ()
    monkeypatch.setenv("COSPEC_API_KEY", "secret")
    assert AppArgs().server_settings().api_keys == ("secret",)
    assert AppArgs(settings={"api_keys": ["own"]}).server_settings().api_keys == ("own",)
    with pytest.raises(CospecError, match="key is empty"):
        AppArgs(settings={"api_keys": [" "]}).server_settings()

"""`cospec batch --ray` over the workers of a cluster of two nodes."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import ray
from typer.testing import CliRunner

from cospec import Ensemble
from cospec.batch_ray import Worker
from cospec.cli import app
from cospec.server.settings import ServerSettings

# Ray Data's own, of its own settings.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray[.]data")

PROMPT = "Question: How much is 7 times 8?\nAnswer:"
NUM_LINES = 48


@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    """Bare lines and some in OpenAI's shape, each with its own seed, and one that is wrong."""
    bodies = [{"prompt": PROMPT, "seed": seed, "max_tokens": 16, "ignore_eos": True} for seed in range(NUM_LINES - 1)]
    wrapped = {"custom_id": "r1", "url": "/v1/completions", "body": bodies[1]}
    file = tmp_path_factory.mktemp("batch") / "in.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in (bodies[0], wrapped, *bodies[2:], [])))
    return file


def arguments(requests, out, *options):
    return ["batch", str(requests), str(out), "--ensemble", "demo:we", "--max-sequences", "8", *options]


def texts(out):
    """Line number -> its text, or its error."""
    values = [json.loads(line) for line in out.read_text().splitlines()]
    assert len({value["line"] for value in values}) == len(values)
    return {value["line"]: _text(value) for value in values}


def _text(value):
    if value.get("error"):
        return value["error"]["message"]
    return value["response"]["body"]["choices"][0]["text"] if "response" in value else value["text"]


@pytest.fixture(scope="module")
def alone(requests, tmp_path_factory):
    """What a run without Ray writes."""
    out = tmp_path_factory.mktemp("alone") / "out.jsonl"
    assert CliRunner().invoke(app, arguments(requests, out)).exit_code == 2
    return texts(out)


def test_a_driver_killed_midway_is_gone_on_with_and_all_texts_are_those_of_a_run_without_ray(
    cluster, requests, alone, tmp_path
):
    out = tmp_path / "out.jsonl"
    call = arguments(requests, out, "--ray", "--workers", "2")
    command = [sys.executable, "-c", "from cospec.cli import main; main()", *call]
    with subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": cluster}, stderr=subprocess.DEVNULL) as running:
        while not out.exists() or out.read_bytes().count(b"\n") < 2:
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
    num_kept = out.read_bytes().count(b"\n")
    assert 2 <= num_kept < NUM_LINES
    with out.open("ab") as file:
        file.write(b'{"line": 3, "te')
    result = CliRunner().invoke(app, [*call, "--json"])
    # The line that is wrong may stand refused among what was kept.
    counts = json.loads(result.stdout)
    assert result.exit_code == (2 if counts["refused"] else 0), result.output
    assert f"has {num_kept} of {NUM_LINES} answers" in result.stderr
    assert (counts["skipped"], counts["answered"], counts["failed"]) == (num_kept, NUM_LINES - num_kept, 0)
    assert texts(out) == alone
    # It was not the run's own to end.
    assert ray.is_initialized()


def test_more_workers_than_the_cluster_has_room_for_are_refused(cluster, requests, tmp_path):
    result = CliRunner().invoke(app, arguments(requests, tmp_path / "out.jsonl", "--ray", "--workers", "9"))
    assert result.exit_code == 2
    assert "9 workers need 9 CPU and the cluster has 2; ask for fewer --workers" in result.stderr


def test_a_worker_that_cannot_load_its_ensemble_says_so_for_each_call():
    worker = Worker(partial(Ensemble.load, "demo:nope"), ServerSettings(model="demo:nope"))
    told = worker({"number": [4, 9], "url": ["/v1/completions"] * 2, "body": ["{}"] * 2})
    assert (told["number"], told["status"]) == ([4, 9], [503, 503])
    assert "unknown bundled ensemble 'demo:nope'" in json.loads(told["body"][1])["error"]["message"]


def test_without_ray_the_extra_is_named(monkeypatch, requests, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "cospec.batch_ray", raising=False)
    monkeypatch.delitem(sys.modules, "cospec.serve_ray", raising=False)
    for call in (arguments(requests, tmp_path / "out.jsonl", "--ray"), ["serve", "--ray"]):
        result = CliRunner().invoke(app, call)
        assert result.exit_code == 2
        assert "pip install 'cospec[ray]'" in result.stderr

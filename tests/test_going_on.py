"""The commands that go on from a file: it never mixes the results of two, whatever was edited, however a run ended."""

import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cospec import Engine, Ensemble, SamplingParams
from cospec.cli import app
from cospec.study.tune import TuneProgress

from .cli_models import write_models
from .processes import cospec
from .properties import examples
from .signals import hearing_interrupts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


def generate(folder, prompts, out, *options):
    models = ["--member", str(folder / "a"), "--member", str(folder / "b"), "--dtype", "float32"]
    call = ["generate", "--prompts", str(prompts), "--out", str(out), *models, "--max-tokens", "4", "--seed", "1"]
    return [*call, *options]


def call(arguments):
    return CliRunner().invoke(app, arguments)


def write(path, prompts):
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))


def texts(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["index"] for row in rows}) == len(rows)
    kept = ("text", "token_ids", "id", "finish_reason", "schedule", "verification", "settings")
    return {row["index"]: {key: row.get(key) for key in kept} for row in rows}


def prompt_entries():
    text = st.sampled_from(["one", "two", "the target"])
    return (
        text
        | st.lists(st.integers(1, 200), min_size=1, max_size=3)
        | st.builds(lambda text, id: {"prompt": text, "id": id}, text, st.integers(0, 2))
    )


OPTIONS = st.lists(
    st.sampled_from(
        [
            ("--temperature", "0.5"),
            ("--seed", "2"),
            ("--n", "2"),
            ("--logit-bias", "3=-inf"),
            ("--schedule", "plain"),
            ("--schedule", "fixed", "--gamma", "2"),
            ("--verification", "coupled"),
            ("--weight", "0.3", "--weight", "0.7"),
            ("--combine", "product"),
            ("--logprobs", "1"),
            ("--dtype", "float64"),
            ("--stop", "e"),
        ]
    ),
    max_size=1,
).map(lambda chosen: [part for each in chosen for part in each])
FILES = st.lists(prompt_entries(), min_size=1, max_size=3)


@given(data=st.data())
@settings(
    max_examples=examples(12),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_generate_never_mixes_the_results_of_two_commands(folder, tmp_path, data):
    prompts, out, fresh = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "fresh.jsonl"
    for path in (out, fresh):
        path.unlink(missing_ok=True)
    first = data.draw(FILES)
    edits = [st.just(first), st.just([*first, "more"]), FILES]
    second, before, after = data.draw(st.one_of(edits)), data.draw(OPTIONS), data.draw(OPTIONS)
    write(prompts, first)
    assert call(generate(folder, prompts, out, *before)).exit_code == 0
    raw = out.read_bytes()
    # The seconds within have more digits or fewer from run to run, so that a share is drawn.
    kept = raw[: round(data.draw(st.floats(0, 1)) * len(raw))]
    out.write_bytes(kept)
    write(prompts, second)
    result = call(generate(folder, prompts, out, *after))
    if result.exit_code:
        assert isinstance(result.exception, SystemExit)
        assert "was made with other settings: " in result.stderr or "is no result of these" in result.stderr
        assert out.read_bytes() == kept
    else:
        assert call(generate(folder, prompts, fresh, *after)).exit_code == 0
        assert texts(out) == texts(fresh)


def refused(folder, tmp_path, options, *, lines=("one", "two"), now=("one", "two")):
    prompts, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(prompts, lines)
    assert call(generate(folder, prompts, out, "--temperature", "0.7")).exit_code == 0
    write(prompts, now)
    before = out.read_bytes()
    result = call(generate(folder, prompts, out, *options))
    assert result.exit_code == 2
    assert out.read_bytes() == before
    return " ".join(result.stderr.split())


def test_other_results_are_refused_by_what_differs(folder, tmp_path):
    said = refused(folder, tmp_path, ["--temperature", "1.0"])
    assert "in.jsonl:1, was made with other settings: temperature 0.7 was kept, 1.0 is asked. Give" in said
    (tmp_path / "out.jsonl").unlink()
    said = refused(folder, tmp_path, ["--temperature", "0.7"], now=("one", "three"))
    assert "in.jsonl:2, was made with other settings: prompt has changed" in said
    (tmp_path / "out.jsonl").unlink()
    assert "no result of these 1 prompts" in refused(folder, tmp_path, ["--temperature", "0.7"], now=("one",))


def test_other_weights_under_the_same_path_are_noticed(tmp_path):
    """A model that was trained on, or replaced, has another fingerprint; one that was copied has the same."""
    folder = write_models(tmp_path / "models")
    prompts, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(prompts, ["one", "two"])
    assert call(generate(folder, prompts, out)).exit_code == 0
    moved = folder.rename(tmp_path / "moved")
    assert "has 2 of 2 prompts" in call(generate(moved, prompts, out)).stderr
    weights = moved / "a" / "model.safetensors"
    weights.write_bytes((moved / "b" / "model.safetensors").read_bytes())
    result = call(generate(moved, prompts, out))
    assert result.exit_code == 2
    assert "members.a.files has changed" in result.stderr


def test_generate_goes_on_after_it_was_killed_at_any_moment(folder, tmp_path):
    prompts, out, fresh = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "fresh.jsonl"
    write(prompts, [f"prompt {number}" for number in range(24)])
    options = ("--max-tokens", "24", "--ignore-eos")
    arguments = generate(folder, prompts, out, *options)
    rng = random.Random(0)
    for _ in range(2):
        with cospec(*arguments) as running:
            num_before = out.read_bytes().count(b"\n") if out.exists() else 0
            while running.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") == num_before):
                time.sleep(0.002)
            time.sleep(rng.random() * 0.05)
            running.send_signal(signal.SIGKILL)
            running.wait(60)
    assert call(arguments).exit_code == 0
    assert call(generate(folder, prompts, fresh, *options)).exit_code == 0
    assert texts(out) == texts(fresh)


def interrupt_at(monkeypatch, number):
    """Ctrl-C in the given round."""
    rounds, step = itertools.count(1), Engine.step

    def interrupted(engine):
        if next(rounds) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return step(engine)

    monkeypatch.setattr(Engine, "step", interrupted)


def interrupt_behind_texts(monkeypatch, number):
    """Ctrl-C once so many texts of a `tune` are kept: how many rounds they take depends on what is measured."""
    save = TuneProgress.save

    def interrupted(progress, path):
        save(progress, path)
        if len(progress.choices) == number and not progress.timed:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(TuneProgress, "save", interrupted)


def test_tune_goes_on_after_ctrl_c(tmp_path, monkeypatch):
    folder = write_models(tmp_path)
    file, kept = folder / "mine.yaml", folder / "mine.yaml.tuning.json"
    file.write_text("members: [a, b]\ndtype: float32\n")
    arguments = ["tune", "--ensemble", str(file), "--max-tokens", "30", "--json"]
    with monkeypatch.context() as patched, hearing_interrupts():
        interrupt_behind_texts(patched, 2)
        stopped = call(arguments)
    assert stopped.exit_code == 130
    before = json.loads(kept.read_text())
    num = len(before["choices"])
    assert num >= 2
    assert f"interrupted; {kept} has what was measured on {num} texts, and the same command goes on" in stopped.stderr
    assert file.read_text() == "members: [a, b]\ndtype: float32\n"
    refused = call([*arguments, "--temperature", "0.5"])
    assert refused.exit_code == 2
    assert "temperature 1.0 was kept, 0.5 is asked" in refused.stderr
    refused = call([*arguments, "--threads", str(before["settings"]["machine"]["threads"] + 1)])
    assert "machine.threads" in refused.stderr
    assert json.loads(kept.read_text()) == before
    for broken in ({"chosen": "plain"}, before["planner"] | {"beliefs": []}):
        kept.write_text(json.dumps(before | {"planner": broken}))
        refused = call(arguments)
        assert refused.exit_code == 2
        assert f"{kept} holds no measurements of cospec tune; remove it" in refused.stderr
    kept.write_text(json.dumps(before))
    done = call(arguments)
    assert done.exit_code == 0, done.stderr
    assert f"{kept} has the measurements of {num} texts; going on from there" in done.stderr
    assert json.loads(done.stdout)["num_texts"] >= num
    assert "schedule: " in file.read_text()
    assert not kept.exists()


def test_a_planner_goes_on_with_all_that_another_measured(folder):
    """Written to JSON and read again in between."""
    ensemble = Ensemble([folder / "a", folder / "b"], proposer=["lookup"], dtype="float32")
    params = SamplingParams(max_tokens=60, ignore_eos=True)
    ensemble.generate(["the members", "two models"], params)
    planner = ensemble.planner_for(params)
    assert planner.chosen
    fresh = Ensemble([folder / "a", folder / "b"], proposer=["lookup"], dtype="float32").planner_for(params)
    kept = json.dumps(planner.state())
    fresh.restore(json.loads(kept))
    assert json.dumps(fresh.state()) == kept
    assert fresh.chosen == planner.chosen
    assert set(fresh.predictions) == set(planner.predictions)
    assert all(speed > 0 for speed in fresh.predictions.values())
    # Its plans are tuned as the other's were, and it goes on learning.
    other = Ensemble([folder / "a", folder / "b"], proposer=["lookup"], dtype="float32")
    other.planner_for(params).restore(json.loads(kept))
    other.generate("the members", params)
    assert other.planner_for(params).state()["num_settled"] > json.loads(kept)["num_settled"]


# A full disk, and what is no file.


def limit_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))


def test_a_full_disk_names_the_file_and_the_same_command_goes_on(folder, tmp_path):
    """The file system refuses what goes beyond a limit, as a full one does."""
    prompts, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(prompts, [f"prompt {number}" for number in range(8)])
    arguments = generate(folder, prompts, out)
    ended = cospec(*arguments, stderr=subprocess.PIPE, text=True, before=limit_files)
    _, errors = ended.communicate()
    assert ended.returncode == 2
    assert f"error: {out} cannot be written: File too large" in errors
    assert "Traceback" not in errors
    raw = out.read_bytes()
    assert raw.endswith(b"}\n")
    assert 0 < raw.count(b"\n") < 8
    assert call(arguments).exit_code == 0
    assert len(texts(out)) == 8


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it is Linux's")
def test_results_are_not_written_into_a_device(folder, tmp_path):
    prompts = tmp_path / "in.jsonl"
    write(prompts, ["one"])
    result = call(generate(folder, prompts, "/dev/full"))
    assert result.exit_code == 2
    assert "/dev/full is no regular file" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it is Linux's")
def test_a_full_disk_behind_standard_output_is_told(folder):
    command = [sys.executable, "-c", "from cospec.cli import main; main()", "generate", "hello", "--max-tokens", "2"]
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [*command, "--member", str(folder / "a")], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == 2
    assert "error: standard output: No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr

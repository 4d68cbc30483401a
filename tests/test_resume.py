"""Results that a later run goes on with: a file never mixes those of two commands, however a run ended."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cospec import Ensemble, SamplingParams
from cospec.cli import app
from cospec.core.engine import Engine
from cospec.errors import CospecError
from cospec.resume import SETTINGS, RowFile, Wanted, check_settings, differences, digest, read_rows

from .cli_models import write_models
from .signals import hear_interrupts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


# What differs, in words.


@pytest.mark.parametrize(
    ("kept", "now", "said"),
    [
        ({"temperature": 0.7}, {"temperature": 1.0}, ["temperature 0.7 was kept, 1.0 is asked"]),
        ({}, {"seed": 1}, ["no seed was kept, 1 is asked"]),
        ({"seed": 1}, {"seed": None}, ["seed 1 was kept, none is asked"]),
        ({"prompt": digest("a")}, {"prompt": digest("b")}, ["prompt has changed"]),
        ({"members": {"a": {"dtype": "auto"}}}, {"members": {"a": {"dtype": "float16"}}}, ["members.a.dtype auto was"]),
        ({"members": {"a": {}}}, {"members": {"a": {}, "b": {}}}, ["no members.b was kept, one is asked"]),
        ({"stop": []}, {"stop": ["x"]}, ['stop [] was kept, ["x"] is asked']),
        ({"prompts": [digest("a"), digest("b")]}, {"prompts": [digest("a"), digest("c")]}, ["prompts[1] has changed"]),
    ],
)
def test_what_differs_is_named_with_both_values(kept, now, said):
    found = [*differences(kept, now)]
    assert len(found) == len(said)
    assert all(one.startswith(other) for one, other in zip(found, said, strict=True))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)


def without_nulls(value):
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


@given(OBJECTS, OBJECTS)
@example({"a": True}, {"a": 1})
def test_settings_are_the_same_exactly_where_nothing_differs(kept, now):
    """A setting that is null is one that was not given."""
    assert ([*differences(kept, now)] == []) == (without_nulls(kept) == without_nulls(now))
    assert [*differences(now, now)] == []


def test_a_long_list_of_differences_is_cut():
    with pytest.raises(CospecError, match=r"a 0 was kept, 1 is asked; .*; and 4 more\. Go away"):
        check_settings("x", dict.fromkeys("abcdefghij", 0), dict.fromkeys("abcdefghij", 1), "Go away")


# Rows.


def wanted(*prompts, temperature=1.0):
    return {
        number: Wanted(place=f"in:{number}", settings={"prompt": digest(prompt), "temperature": temperature})
        for number, prompt in enumerate(prompts)
    }


def run(path, rows, *, most=99):
    """A run that answers what is wanted, `most` rows of it: each row is its own settings."""
    kept = read_rows(path, "index", rows, "result")
    with RowFile(path, kept) as file:
        for number in [number for number in rows if number not in kept.rows][:most]:
            file.append({"index": number, SETTINGS: rows[number].settings})


PROMPTS = st.lists(st.sampled_from("abc"), min_size=1, max_size=5)


@given(st.data(), PROMPTS, PROMPTS, st.sampled_from([0.5, 1.0]), st.integers(0, 5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_second_run_gives_a_fresh_runs_rows_or_is_refused_and_changes_nothing(
    tmp_path, data, first, second, temperature, most
):
    """For any edit of prompts and options, and a first run that was killed at any byte."""
    path = tmp_path / "out.jsonl"
    path.unlink(missing_ok=True)
    run(path, wanted(*first), most=most)
    raw = path.read_bytes()
    before = raw[: data.draw(st.integers(0, len(raw)))]
    path.write_bytes(before)
    now = wanted(*second, temperature=temperature)
    try:
        run(path, now)
    except CospecError:
        assert path.read_bytes() == before
        whole = [json.loads(line) for line in before.split(b"\n") if line.endswith(b"}}")]
        numbers = [row["index"] for row in whole]
        assert any(i >= len(second) or first[i] != second[i] or temperature != 1.0 for i in numbers)
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert sorted(rows, key=lambda row: row["index"]) == [
            {"index": number, SETTINGS: row.settings} for number, row in now.items()
        ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"index": 7}', "is no result; give another file"),
        ('{"index": true}', "is no result"),
        ('{"index": [1]}', "is no result"),
        ("[1]", "is no result"),
        ("\n{}", "is no result"),
        ('{"index": 0}', "an earlier version of cospec wrote it"),
        ('{"index": 0, "settings": 3}', "an earlier version of cospec wrote it"),
    ],
)
def test_a_file_of_anything_else_is_refused(tmp_path, content, said):
    path = tmp_path / "out.jsonl"
    path.write_text(content)
    with pytest.raises(CospecError, match=rf"out\.jsonl:1 .*{said}"):
        read_rows(path, "index", wanted("a", "b"), "result")


def test_a_second_row_for_one_prompt_is_refused(tmp_path):
    path, row = tmp_path / "out.jsonl", json.dumps({"index": 0, SETTINGS: wanted("a")[0].settings})
    path.write_text(f"{row}\n{row}\n")
    with pytest.raises(CospecError, match=r"out\.jsonl:2 is the second result for in:0; remove one"):
        read_rows(path, "index", wanted("a"), "result")


# The commands, on models.


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
    kept = ("text", "token_ids", "id", "finish_reason", "schedule", "verification", SETTINGS)
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
    max_examples=25,
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
    kept = raw[: data.draw(st.integers(0, len(raw)))]
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
    write(prompts, [f"prompt {number}" for number in range(40)])
    options = ("--max-tokens", "24", "--ignore-eos")
    arguments = generate(folder, prompts, out, *options)
    rng = random.Random(0)
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", "from cospec.cli import main; main()", *arguments],
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            preexec_fn=hear_interrupts,
        ) as running:
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


def test_tune_goes_on_after_ctrl_c(tmp_path, monkeypatch):
    folder = write_models(tmp_path)
    file, kept = folder / "mine.yaml", folder / "mine.yaml.tuning.json"
    file.write_text("members: [a, b]\ndtype: float32\n")
    arguments = ["tune", "--ensemble", str(file), "--max-tokens", "30", "--json"]
    with monkeypatch.context() as patched:
        interrupt_at(patched, 130)
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
    assert json.loads(kept.read_text()) == before
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


LIMITED = """
import resource, sys
from cospec.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
main()
"""


def test_a_full_disk_names_the_file_and_the_same_command_goes_on(folder, tmp_path):
    """The file system refuses what goes beyond a limit, as a full one does."""
    prompts, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(prompts, [f"prompt {number}" for number in range(8)])
    arguments = generate(folder, prompts, out)
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 2
    assert f"error: {out} cannot be written: File too large" in ended.stderr
    assert "Traceback" not in ended.stderr
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

"""What docs/extending.md promises: a package beside cospec adds a schedule, a combination and a runner, and every part
of cospec takes them in."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import cospec
from cospec import demo

from .cli_models import write_model

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "extending"
GUIDE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = [EXAMPLE / "pyproject.toml", *sorted((EXAMPLE / "cospec_extras").glob("[a-z]*.py"))]
CONTENTS = [path.read_text(encoding="utf-8") for path in FILES]


def blocks(language):
    """The guide's blocks of code."""
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


# What a package's author does in Python, in one process: torch takes seconds to import.
LIBRARY = """
import contextlib
import io
import json
import sys
from dataclasses import replace

from fastapi.testclient import TestClient

from cospec import Ensemble, LoadOptions, Member, SamplingParams
from cospec.cli import main
from cospec.core.combine import make_combination
from cospec.runner.schemes import load_runner
from cospec.schedule import Plan, schedule_class
from cospec.server.app import create_app
from cospec.server.settings import ServerSettings

for block in json.loads(sys.argv[1]):
    exec(compile(block, "extending.md", "exec"), {})

PARAMS = SamplingParams(max_tokens=8, temperature=0)
prompt = open("corpus.txt").readline()
from_file = Ensemble.load("extras.yaml")
pair = Ensemble.load("demo:we", proposer="ngram:corpus.txt")
kind = schedule_class("heuristic")
drafter = Member(model=load_runner("ngram:corpus.txt", LoadOptions()), name="quick")
as_objects = [
    Ensemble.load("demo:we", schedule=schedule, combine=make_combination("power", 2, alpha=2.0), proposer=drafter)
    for schedule in (kind, kind(lane=2), "heuristic")
]
weights = [0.9, 0.1]
body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, "schedule": "heuristic", "weights": weights, "logprobs": 0}
with TestClient(create_app(as_objects[2], ServerSettings(model="extras"))) as client:
    served = client.get("/v1/models").json()["data"][0]["cospec"]
    answer = client.post("/v1/completions", json=body).json()


def command(*arguments):
    # Of two models that are small and read as the bundled ones do, whose vocabulary the example's drafter has.
    models = ["--member", "a", "--member", "b", "--proposer", "ngram:corpus.txt", "--json"]
    sys.argv = ["cospec", *arguments, *models]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        try:
            main()
        except SystemExit as ended:
            assert not ended.code, ended.code
    return json.loads(shown.getvalue().splitlines()[-1])


weighted = as_objects[0].with_combination(make_combination("power", 2, alpha=2.0, weights=weights))
print(json.dumps({
    "weighed": [*pair.planner_for(SamplingParams()).plans],
    "from file": [result.to_dict() for result in from_file.generate([prompt], PARAMS)],
    "plain": from_file.with_plan(Plan(schedule="plain")).generate([prompt], PARAMS)[0].token_ids,
    "names": from_file.names,
    "as objects": [ensemble.generate([prompt], PARAMS)[0].to_dict() for ensemble in as_objects],
    "served": served,
    "answer": answer,
    "weighted": weighted.generate([prompt], replace(PARAMS, logprobs=0))[0].to_dict(),
    "bench": command("bench", "--num-prompts", "2", "--tokens", "12", "--repeats", "1"),
    "verify": command("verify", "--schedule", "heuristic", "--max-tokens", "4", "--samples", "20"),
}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with a text and an ensemble's file, and the example package installed in `site`."""
    folder = tmp_path_factory.mktemp("extending")
    (folder / "corpus.txt").write_text("\n".join(demo.prompts()), encoding="utf-8")
    (described,) = blocks("yaml")
    (folder / "extras.yaml").write_text(described, encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path("demo:math"))
    for seed, name in enumerate("ab"):
        write_model(folder / name, tokenizer, seed)
    install(EXAMPLE, folder / "site")
    return folder


def install(project, site):
    """What pip leaves of a package of pure Python, as far as importlib.metadata reads it."""
    described = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    (package,) = described["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    shutil.copytree(project / package, site / package)
    name, version = (described["project"][key] for key in ("name", "version"))
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    lines = []
    for group, entries in described["project"]["entry-points"].items():
        lines += [f"[{group}]", *(f"{entry} = {value}" for entry, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


def python(folder, *arguments):
    """What Python prints with the package installed: the last line, as JSON, and the lines before it."""
    paths = (folder / "site", Path(cospec.__file__).parents[1])
    ran = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert ran.returncode == 0, ran.stderr
    *lines, last = ran.stdout.splitlines()
    return json.loads(last), lines


@pytest.fixture(scope="module")
def ran(folder):
    """The guide's own code, then LIBRARY."""
    shown = [block for block in blocks("python") if block not in CONTENTS]
    assert sum("check_schedule(" in block for block in shown) == 1
    return python(folder, "-c", LIBRARY, json.dumps(shown))


@pytest.fixture(scope="module")
def seen(ran):
    return ran[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_guide_shows_the_package_as_it_is(path):
    assert path.read_text(encoding="utf-8") in blocks("python") + blocks("toml")


@pytest.mark.long
def test_the_guide_s_own_code_runs_and_its_checks_pass(ran):
    assert " heuristic DraftCounts(proposed=" in "".join(ran[1])


@pytest.mark.long
def test_auto_weighs_the_schedule(seen):
    assert "heuristic by corpus.txt" in seen["weighed"]


@pytest.mark.long
def test_an_ensemble_file_names_all_three(seen):
    (result,) = seen["from file"]
    assert seen["names"] == ["math", "general", "corpus.txt", "drafter"]
    assert result["schedule"] == "heuristic"
    assert result["token_ids"] == seen["plain"]
    assert result["proposers"]["drafter"]["proposed"] > 0
    assert result["members"]["corpus.txt"]["calls"] > 0


@pytest.mark.long
def test_the_same_objects_are_given_directly(seen):
    results = seen["as objects"]
    assert len({result["text"] for result in results}) == 1
    for result in results:
        assert result["schedule"] == "heuristic"
        assert result["proposers"]["quick"]["proposed"] > 0


@pytest.mark.long
def test_the_server_offers_the_schedule(seen):
    assert "heuristic" in seen["served"]["schedules"]
    assert seen["served"]["combination"] == {"type": "power", "weights": [0.5, 0.5]}


@pytest.mark.long
def test_a_request_for_other_weights_keeps_the_combination_s_options(seen):
    (choice,) = seen["answer"]["choices"]
    assert choice["text"] == seen["weighted"]["text"]
    expected = [entry["logprob"] for entry in seen["weighted"]["logprobs"]]
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.long
def test_bench_times_the_schedule(seen):
    row = seen["bench"]["methods"]["heuristic"]
    assert row["tokens_per_second"] > 0
    assert "corpus.txt" in row["calls_per_100_tokens"]


@pytest.mark.long
def test_verify_finds_the_schedule_exact(seen):
    found = seen["verify"]
    assert found["exact"]
    own = [check for check in found["checks"] if check["schedule"].startswith("heuristic")]
    assert {check["name"] for check in own} == {"coupled text", "greedy text", "sampled text"}
    assert {check["verification"] for check in own} == {"coupled", "token", "block"}

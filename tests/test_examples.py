"""What stands in examples/ runs as it stands, and the pages of docs/ name what there is."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cospec import Ensemble
from cospec.cli import app

from .server.conftest import Served

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def served():
    with Served(Ensemble.load("demo:we", proposer="demo:drafter")) as running:
        yield running


def test_the_client(served):
    command = [sys.executable, ROOT / "examples" / "client.py", "--url", f"{served.url}/v1"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    calls = {
        name: int(re.search(rf"^{name}: .* math (\d+) calls", ran.stdout, re.M)[1]) for name in ("plain", "alternate")
    }
    assert calls["alternate"] < calls["plain"]
    assert re.fullmatch(r"(yes|no) \(-\d+\.\d\d\)", lines[-1])


def test_the_page_on_serving_names_the_endpoints_and_metrics_that_there_are(served):
    with served.http() as http:
        paths = {path.replace("{name}", "{id}") for path in http.get("/openapi.json").json()["paths"]}
        metrics = http.get("/metrics").text
    table = PAGE.split("## Endpoints")[1].split("\n## ")[0]
    named = set(re.findall(r"(/[a-z0-9_/{}.]+)`", table.replace("application/json", "")))
    assert named - {"/docs", "/openapi.json"} == paths
    for name in re.findall(r"`((?:vllm|cospec):[a-z0-9_]+)`", PAGE):
        assert f"# HELP {name.removesuffix('_total')}" in metrics


def test_the_page_on_serving_names_options_that_there_are():
    shown = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).output
    named = set(re.findall(r"--[a-z]+(?:-[a-z]+)*", PAGE))
    assert named
    assert not [option for option in named if option not in shown]

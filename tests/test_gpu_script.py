"""The accelerator's benchmark runs the same code here, on the bundled models as they are."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=300)


def test_a_tiny_run_measures_every_plan(tmp_path):
    out = tmp_path / "gpu.json"
    few = ("--tokens", "3", "--repeats", "1", "--batches", "1", "4")
    shown = run("--tiny", "--device", "cpu", *few, "--out", str(out))
    assert shown.returncode == 0, shown.stderr
    figures = json.loads(shown.stdout.splitlines()[-1])
    assert json.loads(out.read_text()) == figures
    assert set(figures["pairs"]["tiny"]["batches"]["4"]) >= {"plain", "mixture", "cascade 6/10", "auto"}
    assert not figures["left_out"]


def test_a_pair_of_a_shape_is_made_and_measured():
    shown = run("--device", "cpu", "--shapes", "57m", "--batches", "1", "--tokens", "2", "--repeats", "1")
    assert shown.returncode == 0, shown.stderr
    rows = json.loads(shown.stdout.splitlines()[-1])["pairs"]["57m"]["batches"]["1"]
    assert rows["plain"]["over_plain"] == 1
    assert len(rows) == 7


def test_each_pair_has_its_part_of_the_time(monkeypatch):
    """The largest one is the last, and must not be left out because the first ones took it all."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    budget = importlib.import_module("gpu").Budget(90, started=time.perf_counter() - 30)
    assert budget.part(3).seconds == pytest.approx(20, abs=1)
    spent = budget.part(3)
    spent.started -= 25
    assert not spent.allows("batch 64")
    assert budget.allows("the next pair")
    assert budget.left_out == ["batch 64"]


def test_what_the_time_does_not_allow_is_named():
    shown = run("--tiny", "--device", "cpu", "--tokens", "3", "--budget", "0")
    assert shown.returncode == 0, shown.stderr
    assert "tiny, batch 1, plain" in json.loads(shown.stdout.splitlines()[-1])["left_out"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so():
    shown = run()
    assert shown.returncode == 2
    assert "no CUDA device" in shown.stderr

"""The accelerator's benchmark runs the same code here, on the bundled models as they are."""

import importlib
import json
import runpy
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from .processes import Forked

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("gpu")


@pytest.fixture
def figures_of(gpu, monkeypatch, capsys):
    """What it prints last, run with these arguments in this process, which has torch imported."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--device", "cpu", *arguments])
        gpu.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def test_a_tiny_run_measures_every_plan(figures_of, tmp_path):
    out = tmp_path / "gpu.json"
    few = ("--tokens", "3", "--repeats", "1", "--batches", "1", "4")
    figures = figures_of("--tiny", *few, "--out", str(out))
    assert json.loads(out.read_text()) == figures
    assert set(figures["pairs"]["tiny"]["batches"]["4"]) >= {"plain", "mixture", "cascade 6/10", "auto"}
    assert not figures["left_out"]


@pytest.mark.long
def test_a_pair_of_a_shape_is_made_and_measured(figures_of, gpu, monkeypatch):
    monkeypatch.setitem(gpu.SHAPES, "small", replace(gpu.SHAPES["57m"], layers=6))
    few = ("--batches", "1", "--tokens", "2", "--repeats", "1")
    rows = figures_of("--shapes", "small", *few)["pairs"]["small"]["batches"]["1"]
    assert rows["plain"]["over_plain"] == 1
    assert len(rows) == 7


def test_each_pair_has_its_part_of_the_time(gpu):
    """The largest one is the last, and must not be left out because the first ones took it all."""
    budget = gpu.Budget(90, started=time.perf_counter() - 30)
    assert budget.part(3).seconds == pytest.approx(20, abs=1)
    spent = budget.part(3)
    spent.started -= 25
    assert not spent.allows("batch 64")
    assert budget.allows("the next pair")
    assert budget.left_out == ["batch 64"]


def test_what_the_time_does_not_allow_is_named(figures_of):
    assert "tiny, batch 1, plain" in figures_of("--tiny", "--tokens", "3", "--budget", "0")["left_out"]


def run_script():
    sys.argv = [str(SCRIPT)]
    sys.path.insert(0, str(SCRIPT.parent))
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so():
    with Forked(run_script, stderr=subprocess.PIPE, text=True) as shown:
        _, errors = shown.communicate()
    assert shown.returncode == 2
    assert "no CUDA device" in errors

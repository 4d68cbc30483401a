"""The accelerator's benchmark runs the same code here, on the bundled models as they are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=300)


def test_a_tiny_run_measures_every_plan(tmp_path):
    out = tmp_path / "gpu.json"
    shown = run("--tiny", "--device", "cpu", "--tokens", "3", "--repeats", "1", "--out", str(out))
    assert shown.returncode == 0, shown.stderr
    figures = json.loads(shown.stdout.splitlines()[-1])
    assert json.loads(out.read_text()) == figures
    assert set(figures["pairs"]["tiny"]["batches"]["4"]) >= {"plain", "mixture", "cascade 6/10", "auto"}
    assert not figures["left_out"]


def test_what_the_time_does_not_allow_is_named():
    shown = run("--tiny", "--device", "cpu", "--tokens", "3", "--budget", "0")
    assert shown.returncode == 0, shown.stderr
    assert "tiny, batch 1, plain" in json.loads(shown.stdout.splitlines()[-1])["left_out"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so():
    shown = run()
    assert shown.returncode == 2
    assert "no CUDA device" in shown.stderr

"""benchmarks/passes.py times forward passes, and leaves the text behind which they stand as it was."""

import importlib
import json
from pathlib import Path

import torch

from cospec.runner.hf import LoadOptions, load

from .models import saved

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_passes_of_each_number_of_tokens_are_timed(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script, before = importlib.import_module("passes"), torch.get_num_threads()
    try:
        script.main([str(saved(tmp_path)), "--dtype", "float32", "--threads", "1", "--behind", "9", "--repeats", "2"])
    finally:
        torch.set_num_threads(before)
    *lines, last = capsys.readouterr().out.splitlines()
    assert [int(line.split()[0]) for line in lines] == [*script.TOKENS]
    assert all(0 < milliseconds < 1e4 for milliseconds in json.loads(last)["least_ms"].values())
    runner = load(str(tmp_path), LoadOptions(device="cpu", dtype="float32"))
    times = script.seconds(runner, behind=9, repeats=3)
    assert {count: len(own) for count, own in times.items()} == dict.fromkeys(script.TOKENS, 3)

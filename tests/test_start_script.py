"""benchmarks/start.py measures the start of a model, by cospec and by transformers, in processes of their own."""

import importlib
import json
from pathlib import Path

import pytest

from .models import saved

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="this system does not tell what is held"
)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("start")


def test_both_give_a_row_and_what_they_took(script, tmp_path):
    folder = str(saved(tmp_path, num_entries=128))
    for loader in script.LOADERS:
        found = script.measured(loader, folder, "float32")
        assert 0 < found["load_s"] < 1e3
        assert 100 < found["resident_mib"] <= found["peak_mib"]
    ours, theirs = script.by_cospec(folder, "float32")(), script.by_transformers(folder, "float32")()
    assert theirs[0].allclose(ours[0][0], atol=1e-4)


def test_a_line_is_measured_in_a_process_of_its_own(script, tmp_path, capsys):
    folder = str(saved(tmp_path))
    script.main([folder, "--dtypes", "bfloat16", "--loaders", "transformers"])
    line, last = capsys.readouterr().out.splitlines()
    (row,) = json.loads(last)["rows"]
    assert line.split()[:2] == [row["dtype"], row["loader"]] == ["bfloat16", "transformers"]
    assert f"{row['peak_mib']:.0f} MiB" in line
    # No more than one that imports transformers and torch.
    assert 100 < row["resident_mib"] <= row["peak_mib"] < 1000

"""benchmarks/scale.py goes on where it was interrupted."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def ran(out, *arguments):
    command = [
        sys.executable,
        "benchmarks/scale.py",
        "--vllm",
        "none",
        "--only",
        "bundled",
        "--servers",
        "cospec plain",
    ]
    own = [*command, "--out", str(out), "--work", str(out.parent), *arguments]
    return subprocess.run(own, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_a_row_that_was_measured_is_not_measured_again(tmp_path):
    out = tmp_path / "scale.json"
    assert ran(out, "--tokens", "2", "--concurrency", "1").returncode == 0
    (first,) = json.loads(out.read_text())["bundled"]["cospec plain"]["rows"]
    assert (first["clients"], first["tokens"]) == (1, 8)
    assert ran(out, "--tokens", "2", "--concurrency", "1,2").returncode == 0
    one, two = json.loads(out.read_text())["bundled"]["cospec plain"]["rows"]
    assert (one, two["clients"]) == (first, 2)
    other = ran(out, "--tokens", "3", "--concurrency", "4")
    assert other.returncode == 1
    assert "was made with other settings: tokens 2 was kept, tokens 3 is asked" in other.stderr
    out.write_text("[]")
    assert "is no file of this script" in ran(out).stderr

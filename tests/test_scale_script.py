"""benchmarks/scale.py goes on where it was interrupted."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from cospec.errors import CospecError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("scale")


def test_a_row_that_was_measured_is_not_measured_again(script, tmp_path, monkeypatch):
    out = tmp_path / "scale.json"

    def rows(*arguments):
        command = ["scale.py", "--vllm", "none", "--only", "bundled", "--servers", "cospec plain", "--out", str(out)]
        monkeypatch.setattr(sys, "argv", [*command, "--work", str(tmp_path), *arguments])
        script.main()
        return json.loads(out.read_text())["bundled"]["cospec plain"]["rows"]

    (first,) = rows("--tokens", "2", "--concurrency", "1")
    assert (first["clients"], first["tokens"]) == (1, 8)
    one, two = rows("--tokens", "2", "--concurrency", "1,2")
    assert (one, two["clients"]) == (first, 2)
    assert rows("--tokens", "2", "--concurrency", "2") == [one, two]
    with pytest.raises(SystemExit, match=r"was made with other settings: tokens 2 was kept, 3 is asked"):
        rows("--tokens", "3", "--concurrency", "4")


def test_what_is_no_file_of_results_is_left_alone(script, tmp_path):
    for text in ("[]", "{broken", '{"plans": {}}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(CospecError, match="is no file of this script"):
            script.read(tmp_path / "other.json")
    assert script.read(tmp_path / "missing.json") == {}


def test_few_clients_ask_for_more_each_so_that_no_row_is_a_few_tokens(script):
    case = script.Case("demo:chat-we", "demo:smollm2-we-drafter", requests=1, least=4, tokens=32)
    assert [case.requests_of(clients) for clients in (1, 3, 4, 32)] == [4, 2, 1, 1]


def test_a_server_that_is_none_is_refused_with_those_that_there_are(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scale.py", "--vllm", "none", "--servers", "vlm"])
    with pytest.raises(SystemExit):
        script.parsed()
    assert "'vlm' is none of cospec plain, cospec auto, vllm" in capsys.readouterr().err

"""What shows that a seed has one text goes on where it was ended."""

import json

import pytest

from benchmarks import invariant


@pytest.mark.long
def test_cases_that_stand_in_the_file_are_not_decoded_again(tmp_path, monkeypatch, capsys):
    out = tmp_path / "found.json"
    options = ["demo:we", "--dtype", "float32", "--prompts", "2", "--max-tokens", "3", "--batches", "1", "2"]
    options += ["--repeats", "1", "--temperatures", "0", "--out", str(out)]
    decoded, calls = invariant.decoded, []

    def some(*given):
        calls.append(given)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return decoded(*given)

    monkeypatch.setattr(invariant, "decoded", some)
    with pytest.raises(KeyboardInterrupt):
        invariant.main(options)
    # The first call was what the others are compared with.
    (begun,) = json.loads(out.read_text())["equal"].values()
    assert len(begun) == 3
    calls.clear()
    monkeypatch.setattr(invariant, "decoded", lambda *given: calls.append(given) or decoded(*given))
    invariant.main(options)
    (cases,) = json.loads(out.read_text())["equal"].values()
    assert cases[:3] == begun
    assert len(calls) == len(cases) - 3 + 1
    assert all(case["equal"] == case["texts"] for case in cases)
    assert len({(case["plan"], case["batch"], case["prompts"]) for case in cases}) == len(cases)
    calls.clear()
    invariant.main([*options, "--threads", "1"])
    assert not calls
    invariant.main([*options, "--max-tokens", "2"])
    assert len(calls) == len(cases) + 1

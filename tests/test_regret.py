"""What `auto` loses while it learns, over toy members whose passes take what a cost model says."""

import importlib
import json
import math
import random
import types
from pathlib import Path

import pytest

from cospec import Ensemble, Mixture, SamplingParams, toy
from cospec.members import Member
from cospec.schedule.calibration import calibrated

from .clock import Clock, use_clock

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
LIKE_A = [0.5, 0.2, 0.1, 0.1, 0.05, 0.05]
LIKE_B = [0.3, 0.4, 0.1, 0.1, 0.05, 0.05]
HOPELESS = [0.001, 0.001, 0.001, 0.001, 0.001, 0.995]
# Two that differ, so that drafts for each other pay little, and what they make together.
FIRST_SURE, SECOND_SURE = [0.9, 0.02, 0.02, 0.02, 0.02, 0.02], [0.02, 0.9, 0.02, 0.02, 0.02, 0.02]
BETWEEN = [0.46, 0.46, 0.02, 0.02, 0.02, 0.02]
# Of a member and of a drafter: seconds a pass, and a token.
MEMBER, DRAFTER = (0.02, 0.0005), (0.002, 0.0001)
TEXTS, TOKENS = 4, 100


class Slow(toy.FunctionRunner):
    """A model whose passes take so many seconds, and some for each token."""

    def __init__(self, probs, costs):
        logits = [math.log(p) for p in probs]
        super().__init__(len(probs), lambda prefix: logits)
        self.call, self.token = costs

    def feed(self, batch):
        Clock.now += self.call + self.token * sum(len(feed.tokens) for feed in batch)
        return super().feed(batch)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("regret")


@pytest.fixture
def benchmark(script, monkeypatch):
    use_clock(
        monkeypatch,
        "cospec.core.passes",
        "cospec.core.engine",
        "cospec.schedule.auto",
        "cospec.schedule.calibration",
        "regret",
    )
    # The same texts on each run.
    seeds = types.SimpleNamespace(randbits=random.Random(1).getrandbits)
    monkeypatch.setattr("cospec.ensemble.secrets", seeds)
    return script


# Rows of the members and of the drafter, and how tokens are drawn.
SETTINGS = {
    "a good drafter": ((LIKE_A, LIKE_B), LIKE_A, {}),
    "a hopeless drafter": ((LIKE_A, LIKE_B), HOPELESS, {}),
    "greedy": ((LIKE_A, LIKE_A), LIKE_A, {"temperature": 0}),
    "no drafter": ((LIKE_A, LIKE_B), None, {}),
    # With a top-k no token is drawn from one member alone.
    "members that differ, and a good drafter": ((FIRST_SURE, SECOND_SURE), BETWEEN, {"top_k": 5}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_lost_stays_small(benchmark, name):
    """Nothing is known but the cost of passes; from what was learned before, less is lost."""
    rows, drafter, sampling = SETTINGS[name]
    members = [Member(model=Slow(probs, MEMBER), name=each) for each, probs in zip("ab", rows, strict=False)]
    proposer = None if drafter is None else Member(model=Slow(drafter, DRAFTER), name="d")
    ensemble = Ensemble(members, Mixture([1 / len(members)] * len(members)), proposer=proposer)
    # As at loading, for models that are named.
    ensemble._kept.costs = calibrated(dict(enumerate(ensemble.runners)), ensemble._servers)
    params = SamplingParams(max_tokens=TOKENS, ignore_eos=True, **sampling)
    row = benchmark.regret(ensemble, [[0], [1], [2]], params, TEXTS)
    assert row["texts"] == TEXTS
    print(name, row["best"], row["regret"], row["chosen"]["kept"])
    # Texts are drawn anew each time, so that two runs of one plan differ by some percent.
    noise = 0.0 if sampling.get("temperature") == 0 else 0.05
    assert row["regret"]["cold, first"] <= 0.10 + noise
    assert row["regret"]["cold, all"] <= 0.05 + noise
    assert row["regret"]["kept, first"] <= 0.03 + noise
    assert row["regret"]["kept, all"] <= 0.03 + noise


def test_the_best_plan_of_a_text_is_the_one_of_the_others(script):
    clock = script.Clock({"lucky": [1.0, 9.0, 10.0], "steady": [4.5, 4.5, 4.5]})
    assert script.best_seconds(clock, ["lucky", "steady"]) == 13.5
    clock = script.Clock({"slow": [9.0, 9.0], "fast": [5.0, 5.0], "given up": [9.0]})
    assert clock.alive([*clock.seconds]) == ["fast"]


def test_the_command_line_prints_a_table_or_json(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["regret.py", "--ensemble", "demo:guided", "--texts", "2", "--tokens", "6"])
    script.main()
    shown = capsys.readouterr().out
    assert "demo:guided: best fixed plan" in shown
    assert "kept, all" in shown
    monkeypatch.setattr("sys.argv", [*script.sys.argv, "--json"])
    script.main()
    (row,) = json.loads(capsys.readouterr().out)["ensembles"]
    assert set(row["regret"]) == {"cold, first", "cold, all", "kept, first", "kept, all"}

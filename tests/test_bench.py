"""`cospec bench`: the figures are those of the runs, and what was measured is kept."""

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cospec import Ensemble, SamplingParams
from cospec.cli import app
from cospec.cli.bench import BenchOptions
from cospec.cli.options import EnsembleOptions
from cospec.errors import InvalidBenchmark, UnknownName
from cospec.members import Member
from cospec.schedule import Plan
from cospec.study.benchmark import Study, measure, measure_concurrency
from cospec.study.benchmark_tables import report
from cospec.study.methods import Method, chosen, methods, of_schedules
from cospec.study.peers import encoded
from cospec.study.predictions import Tallied, predictions
from cospec.study.timing import ratio

from .toys import table

VARIED = ["--vary", "gamma=2,3", "--vary", "weight=0.2,0.8"]
SMALL = ["--num-prompts", "2", "--tokens", "6", "--repeats", "1"]


def method(name, log=None):
    """Decodes ten tokens a prompt, and writes down that it did."""

    def run(prompts):
        if log is not None:
            log.append((name, tuple(prompts)))
        return 10 * len(prompts), []

    return Method(name, run)


def never():
    return False


def test_a_ratio_is_the_geometric_mean_with_its_interval():
    exact = ratio([2.0, 8.0], [1.0, 2.0])
    assert exact.mean == pytest.approx(math.sqrt(8))
    assert exact.low <= exact.mean <= exact.high
    same = ratio([3.0] * 5, [2.0] * 5)
    assert (same.low, same.high) == (pytest.approx(1.5), pytest.approx(1.5))


def test_methods_are_interleaved_after_a_warm_up():
    log = []
    measure(Study({}), [method("a", log), method("b", log)], ["p", "q"], 2, lambda: None, never)
    names = [name for name, _ in log]
    assert names == ["a", "b"] * 5
    assert [prompts for _, prompts in log] == [("p",)] * 6 + [("q",)] * 4


def test_an_interrupted_run_keeps_its_prompts_and_goes_on(tmp_path):
    path, log = tmp_path / "results.json", []
    study = Study({"tokens": 10})
    # Asked before each of two warm-ups and of two prompts.
    seen = iter([False, False, False, True])
    measure(study, [method("a"), method("b")], ["p", "q"], 1, lambda: study.save(path), lambda: next(seen))
    again = Study.load(path, {"tokens": 10})
    assert again.seconds == study.seconds
    assert list(again.seconds["a"]) == [0]
    measure(again, [method("a", log), method("b", log)], ["p", "q"], 1, lambda: None, never)
    assert {prompts for _, prompts in log} == {("q",)}
    assert list(again.seconds["b"]) == [0, 1]


def test_results_of_other_settings_are_not_mixed_in(tmp_path):
    path = tmp_path / "results.json"
    Study({"tokens": 10}).save(path)
    with pytest.raises(InvalidBenchmark, match="other settings"):
        Study.load(path, {"tokens": 11})
    path.write_text("no json")
    with pytest.raises(InvalidBenchmark, match="no results"):
        Study.load(path, {})


def test_theory_takes_a_methods_acceptances_from_its_own_drafts():
    class Told:
        def acceptance(self, proposer, target, place=None):
            return 0.1

    counts = {"proposed_at": {"small": {"0": 10, "1": 8}}, "accepted_at": {"small": {"0": 8, "1": 4}}}
    tallied = Tallied(Told(), ("large", "small"), counts)
    assert [tallied.acceptance(1, None, place) for place in (0, 1, 5)] == [0.8, 0.5, 0.5]
    assert tallied.acceptance(1, None) == pytest.approx(12 / 18)
    assert tallied.acceptance(0, None, 0) == 0.1


def test_theory_counts_the_prompt_that_every_method_feeds():
    ensemble, params = Ensemble([table(1), table(2)], schedule="auto"), SamplingParams(max_tokens=200, ignore_eos=True)
    ensemble.generate([[0]], params)
    timed = [Method(name, lambda prompts: (0, []), Plan(schedule=name)) for name in ("plain", "alternate")]
    decoding, with_prompt = (
        predictions(ensemble, params, timed, {"plain": {"seconds": 1.0, "prompt seconds": prompt}})
        for prompt in (0.0, 0.5)
    )
    assert decoding["plain"] == with_prompt["plain"] == pytest.approx(1)
    assert with_prompt["alternate"] == pytest.approx(1 / (0.5 + 0.5 / decoding["alternate"]))


def test_a_sweep_takes_so_many_texts_at_once():
    log = []
    study = Study({})
    kept = []
    measure_concurrency(study, [method("a", log)], ["p", "q"], [1, 4], 1, lambda: kept.append(study.concurrency), never)
    assert len(kept) == 2
    assert {len(prompts) for _, prompts in log} == {1, 4}
    assert set(study.concurrency["a"]) == {1, 4}


def test_there_must_be_two_methods():
    available = [method("plain"), method("a"), method("b")]
    for names in (["a"], ["plain"], ["a", "b"]):
        with pytest.raises(InvalidBenchmark, match="nothing to compare"):
            chosen(available, names, {})
    with pytest.raises(UnknownName, match="method"):
        chosen(available, ["a", "c"], {})
    with pytest.raises(InvalidBenchmark, match="c cannot run: the reason"):
        chosen(available, ["plain", "c"], {"c": "the reason"})


def test_a_setting_is_varied_among_the_schedules_named():
    found = [Method(name, lambda prompts: (0, []), Plan(schedule=name)) for name in ("plain", "fixed", "alternate")]
    assert [each.name for each in of_schedules(found, ["plain", "fixed"])] == ["plain", "fixed"]
    assert of_schedules(found, []) == found
    with pytest.raises(InvalidBenchmark, match="nothing to vary among the methods plain, auto"):
        of_schedules(found, ["plain", "auto"])


def test_nothing_is_warmed_up_once_it_is_interrupted():
    log = []
    measure(Study({}), [method("plain", log), method("a", log)], ["p"], 1, lambda: None, lambda: True)
    assert log == []


def test_prompts_of_another_content_are_other_settings(tmp_path):
    file = tmp_path / "prompts.jsonl"
    settings = []
    for text in ("one", "two", "two"):
        file.write_text(f'"{text}"\n')
        options = BenchOptions(prompts=file)
        settings.append(options.settings(EnsembleOptions(), options.texts()))
    assert settings[0] != settings[1] == settings[2]


def test_an_ensemble_file_of_another_content_is_other_settings(tmp_path):
    file = tmp_path / "ours.yaml"
    settings = []
    for text in ("a: 1", "a: 2", "a: 2"):
        file.write_text(text)
        settings.append(BenchOptions().settings(EnsembleOptions(ensemble=str(file)), ["p"]))
    assert settings[0] != settings[1] == settings[2]


def test_what_cannot_be_had_is_skipped_by_name():
    ensemble = Ensemble.load("demo:cd")
    available, skipped = methods(ensemble, SamplingParams(temperature=0), [])
    names = {each.name for each in available}
    assert {"plain", "fixed", "alternate", "auto", "bare", "parallel", "hf:general", "single:amateur"} <= names
    assert set(skipped) == {"mixture", "hf-assisted", "hf-ensemble-weight (not exact)"}
    assert not any("ensemble-weight" in name for name in names)


def test_peers_are_given_a_members_own_prompt():
    ensemble = Ensemble([Member(model="demo:general", prompt="Hint: add. {prompt}"), "demo:amateur"])
    prompt, tokenizer = "Question: 2 + 2", ensemble.tokenizer
    assert encoded(ensemble, 0, prompt).tolist() == [tokenizer.encode("Hint: add. Question: 2 + 2")]
    assert encoded(ensemble, 1, prompt).tolist() == [tokenizer.encode(prompt)]


def test_counts_are_per_hundred_tokens():
    study = Study({}, seconds={"plain": {0: 2.0}, "x": {0: 1.0}})
    study.predictions["x"] = 2.1
    study.counts["x"] = {
        "tokens": 50,
        "seconds": 10.0,
        "seconds in models": 9.0,
        "calls": {"a": 25},
        "accepted": {"a": 3},
        "proposed": {"a": 4},
        "proposed_at": {"a": {"0": 0, "1": 4}},
        "accepted_at": {"a": {"0": 0, "1": 3}},
    }
    row = report(study, {})["methods"]["x"]
    assert row["over_plain"]["mean"] == pytest.approx(2.0)
    assert row["calls_per_100_tokens"] == {"a": 50}
    assert row["acceptance"] == {"a": 0.75}
    # Nothing was drafted at the first place, and the second stays the second.
    assert row["acceptance_by_place"] == {"a": [None, 0.75]}
    assert row["share_outside_models"] == pytest.approx(0.1)
    assert row["theory_over_plain"] == 2.1


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system forgets no peak")
def test_a_methods_peak_of_memory_is_its_own():
    def large(prompts):
        assert len(bytearray(64 * 2**20)) > 0
        return 10, []

    study = Study({})
    measure(study, [Method("large", large), method("small")], ["x"], 2, lambda: None, never)
    rows = report(study, {})["methods"]
    held = {name: row["peak_memory_mib"]["process"] for name, row in rows.items()}
    assert 48 < held["large"] - held["small"] < 128


def run(*arguments):
    return CliRunner().invoke(app, ["bench", *arguments])


def test_the_last_line_is_one_json_document_and_plots_are_drawn(tmp_path):
    plan = "schedule=cascade,gamma=2/3,proposer=drafter"
    shown = run(
        *SMALL, "--proposer", "demo:drafter", "--plan", plan, "--concurrency", "1,2", *VARIED, "--out", str(tmp_path)
    )
    assert shown.exit_code == 0, shown.output
    figures = json.loads(shown.stdout.splitlines()[-1])
    names = set(figures["methods"])
    assert {"plain", "auto", "mixture", "hf:math", "hf-assisted", "parallel", "cascade 2/3 by drafter"} <= names
    assert figures["methods"]["plain"]["calls_per_100_tokens"]["math"] == 100
    assert figures["methods"]["alternate"]["theory_over_plain"] > 0
    assert set(figures["concurrency"]["auto"]) == {"1", "2"}
    assert set(figures["sweeps"]["gamma"]["2.0"]) == {"fixed by drafter", "mixture by drafter", "alternate"}
    assert set(figures["sweeps"]["weight"]) == {"0.2", "0.8"}
    of_fixed = figures["methods"]["fixed"]["acceptance_by_place"]["drafter"]
    assert len(of_fixed) <= 4
    assert all(0 <= share <= 1 for share in of_fixed)
    drawn = ("speed", "acceptance", "concurrency", "speed-by-gamma", "speed-by-weight")
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"results.json", "report.json", *(f"{name}.{kind}" for name in drawn for kind in ("svg", "png"))}


def test_the_same_command_measures_nothing_twice(tmp_path):
    arguments = [*SMALL, "--methods", "plain,alternate", "--no-plots", "--json", "--out", str(tmp_path)]
    first, second = run(*arguments), run(*arguments)
    assert json.loads(first.stdout)["methods"]["plain"] == json.loads(second.stdout)["methods"]["plain"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "plain"], "nothing to compare"),
        (["--plan", "schedul=plain"], "did you mean 'schedule'"),
        (["--plan", "schedule=fixed,gamma=x"], "gamma must be a whole number"),
        (["--concurrency", "1,zero"], "counts such as"),
        (["--vary", "weigh=0.2"], "did you mean 'weight'"),
        (["--vary", "weight=a"], "NUMBER"),
        (["--vary", "weight=1.5"], "between 0 and 1"),
        (["--vary", "gamma=0.5"], "whole numbers"),
        (["--vary", "mu=0.5"], "contrastive"),
        (["--proposer", "demo:nobody"], "nobody"),
    ],
)
def test_what_makes_no_sense_is_told(arguments, message):
    shown = run(*SMALL, *arguments)
    assert shown.exit_code == 2
    assert message in " ".join(shown.output.split())

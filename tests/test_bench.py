"""`cospec bench`: the figures are those of the runs, and what was measured is kept."""

import importlib.metadata
import io
import json
import math
import mmap
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cospec import Ensemble, SamplingParams, toy
from cospec.cli import app
from cospec.cli.bench import BenchOptions
from cospec.cli.bench_run import bench_settings, bench_texts
from cospec.cli.bench_tables import tables
from cospec.cli.chat_options import ChatOptions
from cospec.cli.options import EnsembleOptions
from cospec.core.counts import Counts, DraftCounts, LaneCounts
from cospec.errors import InvalidBenchmark, UnknownName
from cospec.members import Member
from cospec.schedule import registry
from cospec.schedule.alternate import Alternate
from cospec.study.benchmark import Benchmark
from cospec.study.intervals import ratio
from cospec.study.ledger import Ledger, at
from cospec.study.methods import PeerMethod, PlannedMethod, benchmarked, selected
from cospec.study.peers import bench_methods, encoded
from cospec.study.predictions import MethodEstimates, predictions
from cospec.study.results import Measurement
from cospec.study.sweep import Sweep, of_schedules
from cospec.study.timing import until_steady

from .toys import table

VARIED = ["--vary", "gamma=2,3", "--vary", "weight=0.2,0.8"]
SMALL = ["--num-prompts", "2", "--max-tokens", "6", "--repeats", "1"]


def method(name, log=None):
    """Decodes ten tokens a prompt, and writes down that it did."""

    def decode_one(prompt):
        if log is not None:
            log.append((name, prompt))
        return 10

    return PeerMethod(name=name, decode_one=decode_one)


def benchmark(*methods, prompts=("p", "q"), repeats=1, ledger=None, **changes):
    ledger = ledger or Ledger(settings={})
    return Benchmark(ledger=ledger, methods=methods, prompts=prompts, repeats=repeats, **changes)


def measure(made, on_step=lambda step: None, should_stop=lambda: False):
    return made.run(on_step, should_stop)


def load(path, settings):
    return Ledger.load(path, settings, content="results of a benchmark", error_type=InvalidBenchmark)


def run_of(name, seconds, tokens=1):
    return Measurement(
        method=name, concurrency=1, batch=0, repeat=0, category="all", prompts=(0,), tokens=tokens, seconds=seconds,
        first_token_seconds=(), text_seconds=(), joules=None,
    )  # fmt: skip


def test_a_ratio_is_the_geometric_mean_with_its_interval():
    exact = ratio([2.0, 8.0], [1.0, 2.0])
    assert exact.mean == pytest.approx(math.sqrt(8))
    assert exact.low <= exact.mean <= exact.high
    same = ratio([3.0] * 5, [2.0] * 5)
    assert (same.low, same.high) == (pytest.approx(1.5), pytest.approx(1.5))


def test_methods_are_interleaved_after_a_warm_up():
    log = []
    measure(benchmark(method("a", log), method("b", log), repeats=2))
    names = [name for name, _ in log]
    # Which comes first changes from run to run.
    assert names == ["a", "b", *("a", "b"), *("b", "a"), *("b", "a"), *("a", "b")]
    assert [prompt for _, prompt in log] == ["p"] * 6 + ["q"] * 4


def test_an_interrupted_run_keeps_its_prompts_and_goes_on(tmp_path):
    path, log = tmp_path / "results.json", []
    first = benchmark(method("a"), method("b"), ledger=Ledger(settings={"tokens": 10}))
    # Asked before each of two warm-ups and of two prompts.
    seen = iter([False, False, False, True])
    assert not measure(first, lambda step: first.ledger.save(path), lambda: next(seen))
    again = benchmark(method("a", log), method("b", log), ledger=load(path, {"tokens": 10}))
    assert again.ledger.measurements == first.ledger.measurements
    assert [run.batch for run in again.ledger.runs("a", 1)] == [0]
    assert measure(again)
    assert {prompt for _, prompt in log} == {"q"}
    assert [run.batch for run in again.ledger.runs("b", 1)] == [0, 1]


def test_what_was_measured_survives_a_file(tmp_path):
    ensemble = Ensemble([table(1), table(2)], schedule="alternate")
    ledger = Ledger(settings={})
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    counts = PlannedMethod(name="alternate", ensemble=ensemble, params=params).decode([[0], [1]]).counts
    assert counts.tokens == 40
    assert counts.proposers
    ledger.counts[at("alternate", 2)] = counts
    ledger.save(tmp_path / "results.json")
    assert load(tmp_path / "results.json", {}) == ledger


def test_results_of_other_settings_are_not_mixed_in(tmp_path):
    path = tmp_path / "results.json"
    Ledger(settings={"tokens": 10}).save(path)
    with pytest.raises(InvalidBenchmark, match=r"other settings: tokens 10 was kept, 11 is asked\."):
        load(path, {"tokens": 11})
    # The second is of an earlier version, whose counts had other names.
    for text in ("no json", json.dumps({"settings": {}, "counts": {"plain": {"tokens": 3, "calls": {"math": 3}}}})):
        path.write_text(text)
        with pytest.raises(InvalidBenchmark, match="no results"):
            load(path, {})


def test_a_planner_is_warmed_up_until_its_choice_is_steady():
    planner = SimpleNamespace(chosen=None)

    def decode():
        for planner.chosen in (None, None, "a", "b", "b", "b", "b"):
            yield

    assert [*until_steady(planner, decode(), 3)] == ["", "", "a", "b", "b", "b"]


def test_theory_takes_a_methods_acceptances_from_its_own_drafts():
    class Measured:
        def acceptance(self, proposer, target, place=None):
            return 0.1

    counts = Counts(proposers={"small": DraftCounts(18, 12, 0, [10, 8], [8, 4])})
    estimates = MethodEstimates(Measured(), ("large", "small"), counts)
    assert [estimates.acceptance(1, None, place) for place in (0, 1, 5)] == [0.8, 0.5, 0.5]
    assert estimates.acceptance(1, None) == pytest.approx(12 / 18)
    assert estimates.acceptance(0, None, 0) == 0.1


def test_theory_counts_the_prompt_that_every_method_feeds():
    ensemble, params = Ensemble([table(1), table(2)], schedule="auto"), SamplingParams(max_tokens=200, ignore_eos=True)
    ensemble.generate([[0]], params)
    timed = scheduled(ensemble, "plain", "alternate")
    decoding, with_prompt = (
        predictions(ensemble, params, timed, {"plain": Counts(seconds=1.0, lanes={"a": LaneCounts(0, 0, 0.0, prompt)})})
        for prompt in (0.0, 0.5)
    )
    assert decoding["plain"] == with_prompt["plain"] == pytest.approx(1)
    assert with_prompt["alternate"] == pytest.approx(1 / (0.5 + 0.5 / decoding["alternate"]))


def scheduled(ensemble, *names):
    """Its published plans of these names."""
    methods, _ = benchmarked(ensemble, SamplingParams())
    return [each for each in methods if each.name in names]


def test_a_sweep_takes_so_many_texts_at_once():
    ensemble, params = Ensemble([table(1), table(2)], schedule="plain"), SamplingParams(max_tokens=5, ignore_eos=True)
    plain, peer = PlannedMethod(name="plain", ensemble=ensemble, params=params), method("peer")
    made = benchmark(plain, peer, prompts=([0], [1]), levels=[1, 4])
    kept = []
    assert measure(made, kept.append)
    assert [step.phase for step in kept if step.phase not in ("warm-up", "speed")] == ["4 at once"]
    speeds = made.figures({})["concurrency"]
    assert {name: set(by_level) for name, by_level in speeds.items()} == {"plain": {1, 4}}
    assert [run.tokens for run in made.ledger.runs("plain", 4)] == [20]


def test_there_must_be_two_methods():
    available = [method("plain"), method("a"), method("b")]
    for names in (["a"], ["plain"], ["a", "b"]):
        with pytest.raises(InvalidBenchmark, match="nothing to compare"):
            selected(available, names, {})
    with pytest.raises(UnknownName, match="method"):
        selected(available, ["a", "c"], {})
    with pytest.raises(InvalidBenchmark, match="c cannot run: the reason"):
        selected(available, ["plain", "c"], {"c": "the reason"})


def test_a_setting_is_varied_among_the_schedules_named():
    found = scheduled(Ensemble([table(1), table(2)]), "plain", "fixed", "alternate")
    assert [each.name for each in of_schedules(found, ["plain", "fixed"])] == ["plain", "fixed"]
    assert of_schedules(found, []) == found
    with pytest.raises(InvalidBenchmark, match="nothing to vary among the methods plain, auto"):
        of_schedules(found, ["plain", "auto"])


def test_nothing_is_warmed_up_once_it_is_interrupted():
    log = []
    measure(benchmark(method("plain", log), method("a", log)), should_stop=lambda: True)
    assert log == []


def test_prompts_of_another_content_are_other_settings(tmp_path):
    file = tmp_path / "prompts.jsonl"
    settings = []
    for text in ("one", "two", "two"):
        file.write_text(f'"{text}"\n')
        options = BenchOptions(prompts=file)
        settings.append(bench_settings(options, EnsembleOptions(), bench_texts(options, ChatOptions())))
    assert settings[0] != settings[1] == settings[2]


def test_an_ensemble_file_of_another_content_is_other_settings(tmp_path):
    file = tmp_path / "ours.yaml"
    settings = []
    for text in ("members: [demo:math]", "members: [demo:general]", "members: [demo:general]"):
        file.write_text(text)
        settings.append(bench_settings(BenchOptions(), EnsembleOptions(ensemble=str(file)), ["p"]))
    assert settings[0] != settings[1] == settings[2]


def test_what_cannot_be_had_is_skipped_by_name():
    ensemble = Ensemble.load("demo:cd")
    available, skipped = bench_methods(ensemble, SamplingParams(temperature=0), [])
    names = {each.name for each in available}
    assert {"plain", "fixed", "alternate", "auto", "bare", "parallel", "hf:general", "single:amateur"} <= names
    assert set(skipped) == {"mixture", "hf-assisted", "hf-ensemble-weight (not exact)"}
    assert not any("ensemble-weight" in name for name in names)


def test_a_member_that_is_no_model_of_transformers_is_timed_without_its_peers():
    tokenizer = Ensemble(["demo:drafter"]).tokenizer
    foreign = toy.FunctionRunner(4096, lambda prefix: [0.0] * 4096, tokenizer=tokenizer)
    ensemble = Ensemble(["demo:drafter", Member(model=foreign, name="own")])
    available, skipped = bench_methods(ensemble, SamplingParams(max_tokens=2), [])
    assert {"plain", "alternate", "single:own", "hf:drafter", "parallel"} <= {each.name for each in available}
    assert {"hf:own", "bare", "hf-ensemble-weight (not exact)"} <= set(skipped)
    for made in available:
        assert made.decode(["Question: how much is 2 + 3?"]).tokens <= 2


def test_peers_are_given_a_members_own_prompt():
    ensemble = Ensemble([Member(model="demo:general", prompt="Hint: add. {prompt}"), "demo:amateur"])
    prompt, tokenizer = "Question: 2 + 2", ensemble.tokenizer
    assert encoded(ensemble, 0, prompt).tolist() == [tokenizer.encode("Hint: add. Question: 2 + 2")]
    assert encoded(ensemble, 1, prompt).tolist() == [tokenizer.encode(prompt)]


def test_counts_are_per_hundred_tokens():
    made = benchmark(method("plain"), method("x"))
    made.ledger.measurements += [run_of("plain", 2.0), run_of("x", 1.0)]
    made.ledger.theory[at("x", 1)] = 2.1
    made.ledger.counts[at("x", 1)] = Counts(
        tokens=50,
        seconds=10.0,
        lanes={"a": LaneCounts(calls=25, seconds=9.0)},
        # Nothing was drafted at the first place.
        proposers={"a": DraftCounts(4, 3, 0, [0, 4], [0, 3])},
    )
    row = made.figures({})["methods"]["x"]
    assert row["over_plain"]["mean"] == pytest.approx(2.0)
    assert row["calls_per_100_tokens"] == {"a": 50}
    assert row["acceptance"] == {"a": 0.75}
    # The second place stays the second.
    assert row["acceptance_by_place"] == {"a": [None, 0.75]}
    assert row["share_outside_models"] == pytest.approx(0.1)
    assert row["theory_over_plain"] == 2.1


def shown_at(width, made, skipped):
    console = Console(width=width, record=True, file=io.StringIO())
    for each in tables(made.figures(skipped)):
        console.print(each)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    return text


def test_tables_fit_80_columns_and_break_no_name():
    names = ["plain", "hf-ensemble-weight (not exact)", "fixed 4 by a-drafter"]
    made = benchmark(*map(method, names))
    made.ledger.measurements += [run_of(name, seconds) for name, seconds in zip(names, (1.0, 2.0, 1e-40), strict=True)]
    made.ledger.counts[at(names[2], 1)] = Counts(
        tokens=9, seconds=1.0, proposers={f"member-{i}": DraftCounts(4, 3, 0, [4], [3]) for i in range(9)}
    )
    lines = shown_at(80, made, {}).splitlines()
    assert all(any(name in line for line in lines) for name in [*names, "over plain"])
    assert any("member-8" in line for line in lines)


@pytest.mark.parametrize("width", [80, 120])
def test_what_explains_a_speed_is_seen_at_any_width(width):
    names = ["plain", "hf-ensemble-weight (not exact)", "fixed 4 by drafter"]
    made = benchmark(*map(method, names))
    made.ledger.measurements += [run_of(name, seconds) for name, seconds in zip(names, (1.0, 2.0, 0.4), strict=True)]
    lanes = ("math", "general", "drafter")
    made.ledger.counts[at("fixed 4 by drafter", 1)] = Counts(
        tokens=9,
        seconds=1.0,
        lanes={name: LaneCounts(calls=9, seconds=0.3) for name in lanes},
        proposers={name: DraftCounts(4, 3, 0, [4], [3]) for name in lanes},
    )
    made.ledger.peaks[at("plain", 1)] = {"process": 411 * 2**20}
    text = shown_at(width, made, {"hf-assisted": "no drafter is a model " * 9})
    assert "Not shown" not in text
    for name in (*names, "hf-assisted", "reason", "theory", "engine"):
        assert any(name in line for line in text.splitlines())
    for figure in ("math 100", "general 100", "drafter", "math 0.75", "general 0.75", "10.0%", "process", "411"):
        assert figure in text


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system forgets no peak")
def test_a_methods_peak_of_memory_is_its_own():
    def large(prompt):
        # A mapping of its own: what is allocated may come from memory that was freed before, and is held already.
        with mmap.mmap(-1, 64 * 2**20) as mapping:
            for _ in range(64):
                mapping.write(bytes(2**20))
        return 10

    made = benchmark(PeerMethod(name="large", decode_one=large), method("small"), prompts=("x",), repeats=2)
    measure(made)
    rows = made.figures({})["methods"]
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


def test_tokens_is_another_name_of_max_tokens_for_a_release():
    prompts = ["p"]
    old, new = BenchOptions(tokens=7), BenchOptions(max_tokens=7)
    assert old.params() == new.params()
    assert bench_settings(old, EnsembleOptions(), prompts) == bench_settings(new, EnsembleOptions(), prompts)


def test_a_gamma_is_varied_of_each_schedule_that_takes_one(monkeypatch):
    class Paired(Alternate):
        name = "paired"

    entry = importlib.metadata.EntryPoint("paired", f"{__name__}:Paired", "cospec.schedules")
    monkeypatch.setitem(globals(), "Paired", Paired)
    monkeypatch.setitem(registry.SCHEDULES._registered, "paired", entry)

    def varied(proposer):
        ensemble = Ensemble([table(1), table(2)], proposer=proposer)
        (variation,) = Sweep.parse("gamma=3").variations(ensemble, SamplingParams(), [])
        assert all(method.ensemble.plan.gamma == 3 for method in variation.methods if method.name != "plain")
        return {method.name for method in variation.methods}

    assert varied(None) == {"plain", "alternate", "fixed", "paired"}
    drafter = Ensemble([table(1), table(2)], proposer=table(3)).drafter_names[0]
    assert varied(table(3)) == {"plain", "alternate", f"fixed by {drafter}", f"mixture by {drafter}", "paired"}


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

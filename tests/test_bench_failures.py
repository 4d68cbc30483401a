"""`cospec bench` where a method cannot run: it is listed as skipped, with the reason, and the others stay whole."""

import builtins
import importlib.metadata
import json

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cospec import Ensemble, SamplingParams, Schedule, errors
from cospec.cli import app
from cospec.errors import CospecError, InvalidBenchmark
from cospec.schedule import registry
from cospec.study.benchmark import Benchmark
from cospec.study.ledger import Ledger
from cospec.study.methods import PeerMethod, PlannedMethod, benchmarked, selected
from cospec.study.peers import PACKED, bench_methods
from cospec.study.predictions import predictions

from .models import saved
from .properties import examples
from .toys import table

PROMPTS, REPEATS = ("p", "q"), 2
# A warm-up, and each prompt so many times.
NUM_CALLS = 1 + len(PROMPTS) * REPEATS


def made_by(kind):
    """An error of this class, whatever its constructor asks for."""
    decoding, encoding, translating = (b"x", 0, 1, "said so"), ("x", 0, 1, "said so"), ("x", 0, 1, "said so")
    several = (("utf-8", *decoding), ("utf-8", *encoding), translating, ("a", "b", ["c"]), ("said so", [OSError()]))
    for arguments in ((), ("said so",), *several):
        try:
            return kind(*arguments)
        except Exception:  # the next arguments, then
            continue
    raise AssertionError(f"{kind} cannot be made")


def all_of(module, base):
    return [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, base)]


# Ctrl-C is no failure of a method.
KINDS = sorted(
    {*all_of(builtins, BaseException), *all_of(errors, CospecError), torch.OutOfMemoryError} - {KeyboardInterrupt},
    key=lambda kind: kind.__name__,
)


def steady(name):
    return PeerMethod(name=name, decode_one=lambda prompt: 10)


def failing(name, error, after):
    """Decodes `after` prompts, then raises."""
    left = iter(range(after))

    def decode_one(prompt):
        if next(left, None) is None:
            raise error
        return 10

    return PeerMethod(name=name, decode_one=decode_one)


def measured(*methods, ledger=None, **changes):
    ledger = Ledger(settings={}) if ledger is None else ledger
    made = Benchmark(ledger=ledger, methods=methods, prompts=PROMPTS, repeats=REPEATS, **changes)
    assert made.run(lambda step: None, lambda: False)
    return made.figures({"known": "beforehand"})


@settings(deadline=None, max_examples=examples(25))
@example(kind=StopIteration, after=0, place=1)
@example(kind=StopIteration, after=1, place=1)
@example(kind=GeneratorExit, after=1, place=0)
@given(kind=st.sampled_from(KINDS), after=st.integers(0, NUM_CALLS + 1), place=st.integers(0, 3))
def test_whatever_a_peer_raises_and_whenever_the_others_are_whole(kind, after, place):
    methods = [steady("plain"), steady("a"), steady("b")]
    error = made_by(kind)
    methods.insert(place, failing("broken", error, after))
    figures = measured(*methods)
    names = {"plain", "a", "b"}
    assert figures["skipped"]["known"] == "beforehand"
    if after < NUM_CALLS:
        assert set(figures["methods"]) == names
        wanted = str(error) if isinstance(error, CospecError) else type(error).__name__
        assert wanted in figures["skipped"]["broken"] != ""
    else:
        assert set(figures["methods"]) == names | {"broken"}
        assert "broken" not in figures["skipped"]
    assert all(figures["methods"][name]["over_plain"]["num"] == len(PROMPTS) for name in names)
    json.dumps(figures, allow_nan=False)


def test_ctrl_c_is_no_failure_of_a_method():
    with pytest.raises(KeyboardInterrupt):
        measured(steady("plain"), failing("peer", KeyboardInterrupt(), 2))


def test_a_peer_that_decodes_no_token_is_skipped():
    empty = PeerMethod(name="empty", decode_one=lambda prompt: 0)
    assert measured(steady("plain"), steady("a"), empty)["skipped"]["empty"].endswith("it decoded no token")


@pytest.mark.parametrize("after", [0, 3])
def test_without_plain_there_is_nothing_to_compare_with(after):
    with pytest.raises(InvalidBenchmark, match="plain failed with 1 concurrent sequence: ValueError: no reason"):
        measured(failing("plain", ValueError("no reason"), after), steady("a"))


def test_a_method_that_failed_is_tried_again_where_the_run_is_resumed():
    ledger = Ledger(settings={})
    log = []

    def well(prompt):
        log.append(prompt)
        return 10

    figures = measured(steady("plain"), failing("peer", MemoryError("none left"), 3), ledger=ledger)
    assert figures["skipped"]["peer"] == "MemoryError: none left"
    # What it decoded before it failed is kept, and nothing of it is shown.
    assert len(ledger.runs("peer", 1)) == 2
    figures = measured(steady("plain"), PeerMethod(name="peer", decode_one=well), ledger=ledger)
    assert set(figures["skipped"]) == {"known"}
    assert figures["methods"]["peer"]["over_plain"]["num"] == len(PROMPTS)
    assert len(log) == 1 + 2, "a warm-up, and what was left"
    assert len(ledger.runs("plain", 1)) == len(PROMPTS) * REPEATS


def test_a_method_that_fails_at_a_level_keeps_its_other_figures():
    class OutOfMemory(PlannedMethod):
        def decode(self, prompts):
            if len(prompts) == 4:
                raise torch.OutOfMemoryError("tried to allocate 3 GiB")
            return super().decode(prompts)

    params = SamplingParams(max_tokens=5, ignore_eos=True)
    plain, large = (
        kind(name=name, ensemble=Ensemble([table(1), table(2)], schedule=name), params=params)
        for kind, name in ((PlannedMethod, "plain"), (OutOfMemory, "alternate"))
    )
    made = Benchmark(
        ledger=Ledger(settings={}), methods=[plain, large], prompts=([0], [1]), repeats=1, levels=[1, 2, 4]
    )
    assert made.run(lambda step: None, lambda: False)
    figures = made.figures({})
    assert figures["skipped"] == {"alternate, 4 at once": "OutOfMemoryError: tried to allocate 3 GiB"}
    assert set(figures["methods"]) == {"plain", "alternate"}
    levels = {name: set(by_level) for name, by_level in figures["concurrency"].items()}
    assert levels == {"plain": {1, 2, 4}, "alternate": {1, 2}}


class Plugin(Schedule):
    """Does as `plain` does, until asked for what it fails at."""

    name = "plugin"
    fails_at = ""

    @classmethod
    def benchmarked(cls, setting):
        if cls.fails_at == "benchmarked":
            raise ZeroDivisionError("a plug-in's own fault")
        return super().benchmarked(setting)

    @classmethod
    def make(cls, plan, setting):
        if cls.fails_at == "make":
            raise ZeroDivisionError("a plug-in's own fault")
        return super().make(plan, setting)

    def turn(self, sheet):
        if self.fails_at == "turn" and sheet.position > 3:
            raise ZeroDivisionError("a plug-in's own fault")
        return super().turn(sheet)

    def cycle(self, estimates):
        if self.fails_at == "cycle":
            raise ZeroDivisionError("a plug-in's own fault")
        return super().cycle(estimates)


@pytest.fixture
def plugin(monkeypatch):
    entry = importlib.metadata.EntryPoint("plugin", f"{__name__}:Plugin", "cospec.schedules")
    monkeypatch.setitem(registry.SCHEDULES._registered, "plugin", entry)
    return Plugin


@pytest.mark.parametrize("fails_at", ["benchmarked", "make", "turn", "cycle"])
def test_a_schedule_of_another_package_that_raises_is_skipped_by_the_same_mechanism(plugin, monkeypatch, fails_at):
    monkeypatch.setattr(plugin, "fails_at", fails_at)
    ensemble, params = Ensemble([table(1), table(2)]), SamplingParams(max_tokens=8, ignore_eos=True)
    available, skipped = bench_methods(ensemble, params, [])
    methods = selected([method for method in available if method.name != "parallel"], [], {})
    made = Benchmark(
        ledger=Ledger(settings={}),
        methods=methods,
        prompts=([0], [1]),
        repeats=1,
        predict=lambda counts: predictions(ensemble, params, methods, counts),
    )
    assert made.run(lambda step: None, lambda: False)
    figures = made.figures(skipped)
    assert {"plain", "alternate", "mixture"} <= set(figures["methods"])
    if fails_at == "cycle":
        # `auto` weighs its plan by that formula.
        assert "ZeroDivisionError" in figures["skipped"]["auto"]
        assert figures["methods"]["plugin"]["theory_over_plain"] is None
        assert figures["methods"]["alternate"]["theory_over_plain"] is not None
    else:
        assert "auto" in figures["methods"]
        assert "plugin" not in figures["methods"]
        assert "ZeroDivisionError: a plug-in's own fault" in figures["skipped"]["plugin"]


def test_what_a_schedules_plan_raises_is_noted_by_its_name(plugin, monkeypatch):
    monkeypatch.setattr(plugin, "fails_at", "benchmarked")
    methods, refused = benchmarked(Ensemble([table(1), table(2)]), SamplingParams())
    assert "plain" in {method.name for method in methods}
    assert isinstance(refused["plugin"], ZeroDivisionError)


def test_a_drafter_of_more_columns_costs_a_benchmark_one_method(tmp_path):
    """Weights are padded to other multiples; transformers takes such a drafter for one of another tokenizer."""
    for name, columns, seed in (("a", 1024, 1), ("b", 1024, 2), ("drafter", 1088, 3)):
        saved(tmp_path / name, num_entries=1000, vocab_size=columns, seed=seed)
    members = [text for name in ("a", "b") for text in ("--member", str(tmp_path / name))]
    shown = CliRunner().invoke(
        app,
        ["bench", *members, "--proposer", str(tmp_path / "drafter"), "--num-prompts", "1", "--repeats", "1",
         "--max-tokens", "4", "--out", str(tmp_path / "out"), "--json"],
    )  # fmt: skip
    assert shown.exit_code == 0, shown.output
    figures = json.loads(shown.stdout)
    assert {name.removesuffix(PACKED) for name in figures["skipped"]} == {"hf-assisted"}
    assert all("tokenizer" in why for why in figures["skipped"].values())
    assert {"plain", "auto", "fixed", "parallel", "hf:a", "bare"} <= set(figures["methods"])
    assert json.loads((tmp_path / "out" / "report.json").read_text())["skipped"] == figures["skipped"]

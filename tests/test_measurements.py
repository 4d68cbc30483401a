"""What `auto` measured is kept for the next process, whole or not at all, and never stands in anyone's way."""

import json
import threading
import types

import pytest
import torch

from cospec import Ensemble, SamplingParams, toy
from cospec.core.combine import Mixture
from cospec.core.counts import Average
from cospec.machine import CACHE
from cospec.measurements import KeptMeasurements, MeasurementFile
from cospec.runner import Feed
from cospec.schedule import Setting, plans
from cospec.schedule.auto import Auto
from cospec.schedule.beliefs import ACCEPTANCE_RATE, Pair
from cospec.schedule.calibration import MOST_ROUNDS, NUM_BEFORE, SIZES, TIMED, calibrated, with_rounds
from cospec.schedule.costs import DECIDING, DRAFTING, Costs

IDENTITY = {"members": {"a": {"files": "blake2b:1"}, "b": {"files": "blake2b:2"}}, "schedule": "auto"}
PARAMS = SamplingParams(max_tokens=40, ignore_eos=True)
EVEN = [0.25] * 4


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE, str(folder))
    return folder


def kept_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def file_of(identity=IDENTITY, dtypes=(torch.float32,), beside=None):
    return MeasurementFile.of(identity, dtypes, beside)


def new_planner():
    setting = Setting(combination=Mixture([0.5, 0.5]), members=("a", "b"), drafters=("c",), params=PARAMS)
    return Auto.of_plans(plans(setting, "block"), setting, "auto")


@pytest.fixture(scope="module")
def learned():
    """What a planner of the same plans knows after some texts."""
    costs = Costs()
    for lane, (call, token) in enumerate(((0.02, 0.0005), (0.02, 0.0005), (0.002, 0.0001))):
        for num_tokens in (1, 9, 17):
            costs.put(lane, num_tokens, call + token * num_tokens, 5)
    planner = new_planner()
    planner.begin_with_costs(costs.state())
    for proposer, target in ((0, None), (1, None), (2, None), (0, 1), (1, 0), (2, 0), (2, 1)):
        planner.beliefs.acceptances[Pair(proposer, target)] = Average(ACCEPTANCE_RATE, 0.9, 40)
    planner._choose()
    planner._num_windows, planner._num_settled = 9, 40
    return json.loads(json.dumps(planner.state()))


def test_what_is_written_is_read_again(cache, learned):
    file_of().write(learned["beliefs"]["costs"], {"warm": learned})
    kept = KeptMeasurements(file_of())
    planner = new_planner()
    assert kept.begin(planner, "warm")
    assert "by c" in learned["chosen"]
    assert planner.chosen == learned["chosen"]
    accepted = {(proposer, target): value for proposer, target, (value, _) in learned["beliefs"]["acceptances"]}
    assert len(accepted) > 1
    assert {pair: planner.beliefs.acceptance(*pair) for pair in accepted} == accepted
    # It is a first belief, which what is measured now soon outweighs.
    assert all(average.count <= 24 for average in planner.beliefs.acceptances.values())
    assert len(kept_in(cache)) == 1


def test_under_another_way_of_sampling_costs_alone_are_taken_over(learned):
    file_of().write(learned["beliefs"]["costs"], {"warm": learned})
    planner = new_planner()
    assert KeptMeasurements(file_of()).begin(planner, "cold")
    assert planner.beliefs.costs.is_known(0)
    assert not planner.beliefs.acceptances


@pytest.mark.parametrize("what", ["members", "dtype", "threads", "processor", "version"])
def test_measurements_of_something_else_are_not_found(what, learned, monkeypatch):
    file_of().write(learned["beliefs"]["costs"], {"warm": learned})
    given = {}
    if what == "members":
        given["identity"] = {**IDENTITY, "members": {"a": {"files": "blake2b:3"}}}
    elif what == "dtype":
        given["dtypes"] = (torch.bfloat16,)
    elif what == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    else:
        where = "machine" if what == "processor" else "measurements"
        monkeypatch.setattr(f"cospec.{where}.{what}", lambda *of: "another")
    assert not file_of(**given).read()


def test_the_schedule_that_is_asked_for_changes_no_costs():
    assert file_of({**IDENTITY, "schedule": "plain", "gamma": 3}).path == file_of().path


def spoiled(learned):
    beliefs = learned["beliefs"]
    yield {}
    yield {**learned, "chosen": 3}
    yield {**learned, "by_confidence": {plan: [] for plan in learned["by_confidence"]}}
    yield {**learned, "by_confidence": {"another plan": []}}
    yield {**learned, "beliefs": {**beliefs, "acceptances": [[0, None, [None, 4]]]}}
    yield {**learned, "beliefs": {**beliefs, "acceptances": [["a"]]}}
    yield {**learned, "beliefs": {**beliefs, "costs": [[0, 1, [1.0, 1], ["fast", 2]]]}}
    yield {**learned, "beliefs": {**beliefs, "corrections": [["plain", 1, [None, 9]]]}}


def test_what_no_planner_leaves_behind_is_as_good_as_nothing(learned):
    for number, state in enumerate(spoiled(learned)):
        file_of().write(learned["beliefs"]["costs"], {"warm": state})
        kept = KeptMeasurements(file_of())
        assert not kept.begin(new_planner(), "warm"), number
        planner = new_planner()
        assert kept.begin(planner, "warm")
        assert not planner.beliefs.acceptances


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"binding": {}}', "\ud800", "[" * 100_000], ids=lambda text: text[:12]
)
def test_a_file_of_something_else_is_passed_over(text):
    file = file_of()
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert not file.read()
    kept = KeptMeasurements(file)
    assert kept.begin(new_planner(), "warm")


def test_costs_of_something_else_are_passed_over():
    file = file_of()
    file.write([["a", "b"]], {})
    kept = KeptMeasurements(file)
    assert not kept.begin(new_planner(), "warm")
    assert kept.begin(new_planner(), "warm")


def test_what_cannot_be_written_is_no_error(cache):
    cache.write_text("a file where the folder should be")
    file_of().write([], {})
    assert not file_of().read()


def test_a_file_is_whole_however_many_write_it(cache, learned):
    file = file_of()
    file.write([], {})
    stop, broken = threading.Event(), []

    def write():
        while not stop.is_set():
            file.write(learned["beliefs"]["costs"], {"warm": learned})

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    for _ in range(50):
        if not file.read():
            broken.append(1)
    stop.set()
    for writer in writers:
        writer.join()
    assert not broken
    assert kept_in(cache) == [file.path]


def test_nothing_is_kept_where_the_cache_is_turned_off(monkeypatch):
    monkeypatch.setenv(CACHE, "off")
    assert file_of() is None


def test_ways_of_sampling_that_were_used_last_are_kept(learned):
    kept = KeptMeasurements(file_of())
    for number in range(20):
        planner = new_planner()
        planner.begin_with(learned)
        planner._num_windows = 1
        assert kept.begin(planner, str(number))
        kept.save()
    assert [*file_of().read()["planners"]] == [str(number) for number in range(4, 20)]


@pytest.fixture
def ensemble_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("members: [demo:math, demo:general]\ndtype: float32\n")
    return path


def test_the_next_ensemble_begins_where_the_last_one_ended(ensemble_file, cache, monkeypatch):
    first = Ensemble.load(ensemble_file)
    first.generate("What is 2 + 3?", PARAMS)
    chosen = first.planner_for(PARAMS).chosen
    (kept,) = [path for path in ensemble_file.parent.iterdir() if path.name.startswith("mine.yaml.measured-")]
    assert json.loads(kept.read_text())["planners"]
    assert not kept_in(cache)
    # Nothing is measured again.
    for measures in ("calibrated", "with_rounds"):
        monkeypatch.setattr(f"cospec.ensemble.{measures}", None)
    second = Ensemble.load(ensemble_file)
    planner = second.planner_for(PARAMS)
    assert planner.chosen == chosen
    assert planner.beliefs.acceptance(0, 1) == pytest.approx(first.planner_for(PARAMS).beliefs.acceptance(0, 1))
    (result,) = second.generate("What is 2 + 3?", PARAMS)
    assert result.completion_tokens == 40


def test_costs_are_measured_at_loading_and_kept_by_none_who_does_not_want_it(ensemble_file):
    ensemble = Ensemble.load(ensemble_file, keep_measurements=False)
    planner = ensemble.planner_for(PARAMS)
    assert planner.beliefs.costs.is_known(0)
    assert planner.beliefs.costs.is_known(1)
    # The engine's own time as well, in rounds that decide one position, that decide a block, and that draft.
    assert all(planner.beliefs.costs.is_known(work) for work in (DECIDING, DRAFTING))
    assert not planner.beliefs.costs.has_one_size(DECIDING)
    assert 0 < planner.beliefs.engine_seconds(0) < planner.beliefs.engine_seconds(5) < 0.1
    ensemble.generate("What is 2 + 3?", PARAMS)
    assert [path.name for path in ensemble_file.parent.iterdir()] == ["mine.yaml"]


# Calibration.


class Counting(toy.FunctionRunner):
    """Passes take a second, and a tenth more for each token; slots are counted."""

    now = 0.0

    def __init__(self, context=None, fails_at=None):
        super().__init__(4, lambda prefix: EVEN, context=context)
        self.num_open, self.num_calls, self.fails_at = 0, 0, fails_at

    def open(self):
        self.num_open += 1
        return super().open()

    def close(self, slot):
        self.num_open -= 1
        super().close(slot)

    def feed(self, batch):
        self.num_calls += 1
        if self.num_calls == self.fails_at:
            raise RuntimeError("broken")
        Counting.now += 1 + 0.1 * sum(len(feed.tokens) for feed in batch)
        assert self.context is None or all(feed.slot.length + len(feed.tokens) <= self.context for feed in batch)
        return super().feed(batch)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(
        "cospec.schedule.calibration.time", types.SimpleNamespace(perf_counter=lambda: Counting.now / 1000)
    )


def costs_of(state):
    costs = Costs()
    costs.restore(state)
    return costs


def test_calibration_measures_each_runner_by_the_tokens_of_all_its_lanes(clock):
    shared, own = Counting(), Counting()
    costs = costs_of(calibrated({0: shared, 1: shared, 2: own}, (0, 0, 2)))
    for lane, num_tokens in ((0, 1), (0, 2), (0, 18), (0, 34), (2, 1), (2, 17)):
        assert costs.seconds(lane, num_tokens) == pytest.approx((1 + 0.1 * num_tokens) / 1000)
    assert shared.num_open == own.num_open == 0
    assert own.num_calls == 1 + len(SIZES) * (1 + MOST_ROUNDS)


def test_calibration_stays_within_its_time(clock, monkeypatch):
    monkeypatch.setattr("cospec.schedule.calibration.MOST_SECONDS", 0)
    runner = Counting()
    assert calibrated({0: runner}, (0,))
    assert runner.num_calls == 1 + len(SIZES) * 2


def test_calibration_stays_within_a_context(clock):
    runner = Counting(context=NUM_BEFORE + SIZES[1])
    costs = costs_of(calibrated({0: runner}, (0,)))
    assert costs.seconds(0, SIZES[1]) > costs.seconds(0, 1) > 0


@pytest.mark.parametrize("fails_at", [1, 2, 7])
def test_a_runner_that_raises_is_left_to_decoding(clock, fails_at):
    broken, whole = Counting(fails_at=fails_at), Counting()
    assert calibrated({0: whole, 1: broken}, (0, 1)) == []
    assert broken.num_open == whole.num_open == 0


def test_timing_the_engine_stays_within_its_time(clock, monkeypatch):
    monkeypatch.setattr("cospec.schedule.calibration.MOST_SECONDS", 0.01)
    runners = [Counting(), Counting()]
    setting = Setting(combination=Mixture([0.5, 0.5]), members=("a", "b"), drafters=(), params=TIMED)
    engine = Ensemble(runners, schedule="plain").engine()
    # A token of both takes 2.2 ms: the text that warms up is all there is time for, and its rounds count for nothing.
    assert with_rounds([], engine, setting, "block", None) == []
    assert 4 <= runners[1].num_calls <= 6
    assert [runner.num_open for runner in runners] == [0, 0]


def test_a_lookup_learns_nothing_from_what_times_the_engine(ensemble_file):
    ensemble = Ensemble.load(ensemble_file, proposer="lookup+past", keep_measurements=False)
    # By the members, since a lookup proposes what it finds alone.
    assert ensemble.planner_for(PARAMS).beliefs.costs.is_known(DRAFTING)
    (lane,) = ensemble._runs
    slot = ensemble.runners[lane].open()
    ensemble.runners[lane].feed([Feed(slot, [7, 108, 209, 310], 1)])
    assert ensemble.runners[lane].propose_run(slot, 4) == []


@pytest.mark.parametrize("fails_at", [2, 5, None])
def test_a_runner_that_raises_while_the_engine_is_timed_leaves_the_costs_that_were_known(fails_at):
    runners = [Counting(), Counting(fails_at=fails_at)]
    engine = Ensemble(runners, schedule="plain").engine()
    setting = Setting(combination=Mixture([0.5, 0.5]), members=("a", "b"), drafters=(), params=TIMED)
    known = costs_of([])
    known.put(0, 1, 0.01, 5)
    timed = costs_of(with_rounds(known.state(), engine, setting, "block", None))
    assert timed.seconds(0, 1) == pytest.approx(0.01) if fails_at else timed.is_known(DRAFTING)
    assert timed.is_known(DECIDING) == (fails_at is None)
    assert [runner.num_open for runner in runners] == [0, 0]
    assert engine.num_live == 0

"""From pilot to operation: the file that is served, and the watch over the service."""

import json
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from cospec import Ensemble
from cospec.cli import app
from cospec.errors import InvalidPilot
from cospec.pilot.criteria import Limits
from cospec.pilot.energy import find_meter
from cospec.pilot.metrics import Histogram, Service, parsed
from cospec.pilot.operation import write_ensemble, write_relaxed
from cospec.pilot.results import Relaxed, Results
from cospec.pilot.trials import trials
from cospec.pilot.watch import watch
from cospec.sampling import SamplingParams

from ..server.conftest import Served

EXAMPLE = Results.load(Path(__file__).parent / "data" / "example.json")


def test_the_plan_that_won_is_written_as_an_ensemble(folder, tmp_path, pair):
    path = tmp_path / "ensemble.yaml"
    for best, schedule in (("auto", "auto"), ("alternate", "alternate"), ("plain", "plain")):
        results = replace(EXAMPLE, speed=replace(EXAMPLE.speed, best=best))
        write_ensemble(pair, trials(pair, SamplingParams()), results, path)
        again = Ensemble.load(path)
        assert again.plan.schedule == schedule
        assert again.member_names == ("a", "b")
        assert again.combination == pair.combination
        assert again.drafter_names == (("c",) if best == "auto" else ())
    assert "verdict was" in path.read_text(encoding="utf-8")


def test_a_plan_of_ones_own_keeps_its_drafter_and_options(folder, tmp_path):
    given = tmp_path / "given.yaml"
    member = {"model": str(folder / "a"), "prompt": "say: {prompt}", "dtype": "float64"}
    settings = {
        "members": [member, str(folder / "b")], "combine": {"type": "mixture", "weights": [0.3, 0.7]},
        "schedule": "fixed", "gamma": 3, "proposer": str(folder / "c"), "verification": "block",
    }  # fmt: skip
    given.write_text(yaml.safe_dump(settings), encoding="utf-8")
    ensemble = Ensemble.load(given)
    results = replace(EXAMPLE, speed=replace(EXAMPLE.speed, best=str(ensemble.plan)))
    write_ensemble(ensemble, trials(ensemble, SamplingParams()), results, tmp_path / "out.yaml")
    again = Ensemble.load(tmp_path / "out.yaml")
    assert again.plan == ensemble.plan
    assert again.combination == ensemble.combination
    assert [(source.prompt, source.options) for source in again.sources] == [
        (source.prompt, source.options) for source in ensemble.sources
    ]


def test_a_softened_target_is_written_only_where_one_was_chosen(pair, tmp_path):
    path = tmp_path / "relaxed.yaml"
    relaxed = Relaxed(
        target="a", drafter="c", gamma=2, measure="score", margin=0.1, rows=(), chosen=0.0, distribution="a"
    )
    write_relaxed(pair, replace(EXAMPLE, relaxed=relaxed), path)
    write_relaxed(pair, replace(EXAMPLE, relaxed=None), path)
    assert not path.exists()
    write_relaxed(pair, replace(EXAMPLE, relaxed=replace(relaxed, chosen=0.25, distribution="a and c")), path)
    assert "LOSSY" in path.read_text(encoding="utf-8")
    again = Ensemble.load(path)
    assert again.combination.weights == (0.75, 0.25)
    assert (again.plan.schedule, again.plan.proposer) == ("fixed", "c")


def service(proposed, accepted, ms, texts=100):
    histogram = Histogram({ms / 1e3: 1000.0, float("inf"): 1000.0}, ms)
    return Service(
        tokens=1000.0,
        proposed={"c": proposed},
        accepted={"c": accepted},
        between_tokens=histogram,
        to_first_token=Histogram({0.1: texts, float("inf"): texts}, 1.0),
    )


def in_pilot():
    """The example's acceptance and mean milliseconds a token at its planned concurrency."""
    row = EXAMPLE.mechanism.row(EXAMPLE.settings.ours, EXAMPLE.verdict.concurrency)
    share = sum(each.accepted for each in row.proposers) / sum(each.proposed for each in row.proposers)
    return share, EXAMPLE.speed.row(EXAMPLE.settings.ours, EXAMPLE.verdict.concurrency).ms_per_token.mean


def test_a_service_like_its_pilot_has_not_drifted():
    share, ms = in_pilot()
    found = watch(EXAMPLE, service(1000, 1000 * share, ms), 0.25)
    assert not found.has_drifted
    assert {reading.status for reading in found.readings} == {"steady"}


def test_lower_acceptance_and_slower_tokens_are_drift():
    share, ms = in_pilot()
    worse = watch(EXAMPLE, service(1000, 1000 * share * 0.7, ms), 0.25)
    assert [r.name for r in worse.readings if r.status == "drifted"] == ["acceptance"] * (
        2 if EXAMPLE.settings.criteria.min_acceptance and share * 0.7 < EXAMPLE.settings.criteria.min_acceptance else 1
    )
    assert watch(EXAMPLE, service(1000, 1000 * share, 1.3 * ms), 0.25).has_drifted
    few = watch(EXAMPLE, service(50, 0, ms), 0.25)
    assert {r.status for r in few.readings if r.name == "acceptance"} == {"too few"}


def test_criteria_hold_in_service_too():
    criteria = replace(EXAMPLE.settings.criteria, max_ms_per_token=Limits(p95=10.0), min_acceptance=0.9)
    results = replace(EXAMPLE, settings=replace(EXAMPLE.settings, criteria=criteria))
    found = watch(results, service(1000, 880, 20.0), 1e3)
    assert {(r.name, r.is_criterion) for r in found.readings if r.status == "drifted"} == {
        ("acceptance", True),
        ("ms_per_token.p95", True),
    }


def test_a_window_is_what_happened_between_two_readings():
    window = service(1000, 800, 5.0).since(service(400, 300, 5.0))
    assert window.proposed == {"c": 600}
    assert window.tokens == 0
    assert window.between_tokens.count == 0
    # A server that was started anew has counted less than before.
    restarted = replace(service(10, 9, 5.0), tokens=10.0)
    assert restarted.since(service(400, 300, 5.0)) == restarted


def test_quantiles_are_read_off_the_buckets():
    histogram = Histogram({1.0: 50.0, 2.0: 90.0, float("inf"): 100.0}, 100.0)
    assert histogram.quantile(0.5) == pytest.approx(1.0)
    assert histogram.quantile(0.7) == pytest.approx(1.5)
    assert histogram.quantile(0.99) == 2.0
    assert Histogram().quantile(0.5) is None


def test_other_servers_are_refused():
    with pytest.raises(InvalidPilot, match="no metrics of `cospec serve`"):
        parsed("python_info 1.0\n")


@pytest.fixture(scope="module")
def served(pair):
    with Served(pair, max_sequences=4) as running:
        yield running


def test_a_running_server_is_watched(served, tmp_path):
    pilot = tmp_path / "results.json"
    pilot.write_text(json.dumps(EXAMPLE.to_dict()), encoding="utf-8")

    def watched(*arguments):
        shown = CliRunner().invoke(app, ["watch", served.url, "--pilot", str(pilot), "--once", *arguments])
        return shown.exit_code, shown.output

    code, output = watched("--json")
    assert code == 0, output
    assert {reading["status"] for reading in json.loads(output)["readings"]} == {"too few"}
    body = {"model": "demo:we", "prompt": "the members", "max_tokens": 64, "ignore_eos": True}
    for _ in range(16):
        httpx.post(f"{served.url}/v1/completions", json=body, timeout=60).raise_for_status()
    # Nothing is slower than a pilot that had all the time there is, and everything than one that had none.
    assert watched("--tolerance", "1e6")[0] in (0, 1)
    code, output = watched("--json", "--tolerance", "0")
    found = json.loads(output)
    assert found["tokens"] == 16 * 64
    assert found["schedule"] == "auto"
    readings = {(reading["name"], reading["is_criterion"]): reading for reading in found["readings"]}
    assert readings["ms_per_token", False]["now"] > 0
    assert code == found["drifted"]


def test_a_server_that_is_not_there_is_told(tmp_path):
    pilot = tmp_path / "results.json"
    pilot.write_text(json.dumps(EXAMPLE.to_dict()), encoding="utf-8")
    shown = CliRunner().invoke(app, ["watch", "http://127.0.0.1:9", "--pilot", str(pilot), "--once"])
    assert shown.exit_code == 2
    assert "is `cospec serve` running there" in " ".join(shown.output.split())
    shown = CliRunner().invoke(app, ["watch", "localhost", "--pilot", str(pilot), "--once"])
    assert "http://HOST:PORT" in " ".join(shown.output.split())


def test_energy_is_read_where_the_machine_counts_it(tmp_path):
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (tmp_path / "intel-rapl:0:0").mkdir()
    (package / "max_energy_range_uj").write_text("10000000\n", encoding="ascii")
    (package / "energy_uj").write_text("9000000\n", encoding="ascii")
    meter = find_meter(tmp_path)
    assert meter.source == "rapl"
    start = meter.read()
    (package / "energy_uj").write_text("9500000\n", encoding="ascii")
    assert meter.since(start) == pytest.approx(0.5)
    # The counter has wrapped.
    (package / "energy_uj").write_text("1000000\n", encoding="ascii")
    assert meter.since(start) == pytest.approx(2.0)


def test_energy_is_not_made_up(tmp_path):
    meter = find_meter(tmp_path)
    assert meter.source is None
    assert meter.since(meter.read()) is None

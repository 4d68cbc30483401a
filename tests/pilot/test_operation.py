"""From pilot to operation: the file that is served, and the watch over the service."""

import contextlib
import json
import os
import signal
import threading
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from cospec import Ensemble
from cospec.cli import app
from cospec.cli.watch_run import _windows
from cospec.core.params import SamplingParams
from cospec.errors import InvalidPilot
from cospec.server.metrics import Metrics
from cospec.study.criteria import Limits
from cospec.study.energy import find_meter
from cospec.study.formula import target_formula
from cospec.study.methods import pilot_methods
from cospec.study.metrics import Histogram, Service, parsed
from cospec.study.operation import write_ensemble, write_relaxed
from cospec.study.results import Relaxed, Results
from cospec.study.verdict import Evidence, Served, judge, served
from cospec.study.watch import OtherEnsemble, ServedEnsemble, described, same, watch

from ..server import conftest as servers
from .studies import NOTHING

EXAMPLE = Results.load(Path(__file__).parent / "data" / "example.json")


def asking(results, **rules):
    """The same study, judged by these rules alone."""
    asked = replace(results.settings, criteria=replace(NOTHING, **rules))
    return replace(results, settings=asked, verdict=judge(asked.criteria, Evidence.of(results, asked.ours)))


def with_best(results, best):
    return replace(results, speed=replace(results.speed, best=best))


def test_the_plan_that_was_judged_is_written_as_an_ensemble(folder, tmp_path, pair):
    path = tmp_path / "ensemble.yaml"
    for best, schedule in (("auto", "auto"), ("alternate", "alternate"), ("plain", "plain")):
        write_ensemble(pair, pilot_methods(pair, SamplingParams()), with_best(asking(EXAMPLE), best), path)
        again = Ensemble.load(path)
        assert again.plan.schedule == schedule
        assert again.member_names == ("a", "b")
        assert again.combination == pair.combination
        assert again.drafter_names == (("c",) if best == "auto" else ())
        assert f"verdict on `{best}` was GO" in path.read_text(encoding="utf-8")


def test_a_faster_plan_that_does_not_meet_the_criteria_is_not_written(tmp_path, pair):
    results = with_best(asking(EXAMPLE, min_speedup=1.0), "plain")
    assert served(results) == Served(method="auto", verdict=results.verdict)
    write_ensemble(pair, pilot_methods(pair, SamplingParams()), results, tmp_path / "ensemble.yaml")
    assert Ensemble.load(tmp_path / "ensemble.yaml").plan.schedule == "auto"
    # What is on trial stays, where it is good for fewer texts than planned.
    up_to = replace(results.verdict, decision="go up to", concurrency=8, up_to=1)
    found = served(replace(results, verdict=up_to))
    assert (found.method, found.concurrency) == ("auto", 1)


def test_a_command_of_several_lines_stays_a_comment(tmp_path, pair):
    path = tmp_path / "ensemble.yaml"
    for command in ("cospec pilot --stop '\n\n'", "cospec pilot --stop '\u2028\x85\r\x1b'"):
        write_ensemble(pair, pilot_methods(pair, SamplingParams()), commanded(asking(EXAMPLE), command), path)
        assert Ensemble.load(path).member_names == ("a", "b")
    assert r"--stop '\u2028\x85\r\x1b'" in path.read_text(encoding="utf-8")


def commanded(results, command):
    return replace(results, settings=replace(results.settings, command=command))


def test_a_plan_of_ones_own_keeps_its_drafter_and_options(folder, tmp_path):
    given = tmp_path / "given.yaml"
    member = {"model": str(folder / "a"), "prompt": "say: {prompt}", "dtype": "float64"}
    settings = {
        "members": [member, str(folder / "b")], "combine": {"type": "mixture", "weights": [0.3, 0.7]},
        "schedule": "fixed", "gamma": 3, "proposer": str(folder / "c"), "verification": "block",
    }  # fmt: skip
    given.write_text(yaml.safe_dump(settings), encoding="utf-8")
    ensemble = Ensemble.load(given)
    own = asking(replace(EXAMPLE, settings=replace(EXAMPLE.settings, ours=str(ensemble.plan))))
    results = with_best(own, str(ensemble.plan))
    write_ensemble(ensemble, pilot_methods(ensemble, SamplingParams()), results, tmp_path / "out.yaml")
    again = Ensemble.load(tmp_path / "out.yaml")
    assert again.plan == ensemble.plan
    assert again.combination == ensemble.combination
    assert [(source.prompt, source.options) for source in again.sources] == [
        (source.prompt, source.options) for source in ensemble.sources
    ]


def test_a_drafter_with_settings_of_its_own_keeps_them_in_service(folder, tmp_path):
    given = tmp_path / "given.yaml"
    drafter = {"model": str(folder / "c"), "name": "small", "prompt": "say: {prompt}", "dtype": "float64"}
    members = [str(folder / "a"), str(folder / "b")]
    given.write_text(yaml.safe_dump({"members": members, "proposer": drafter}), encoding="utf-8")
    ensemble = Ensemble.load(given)
    results = with_best(asking(EXAMPLE), "auto")
    write_ensemble(ensemble, pilot_methods(ensemble, SamplingParams()), results, tmp_path / "out.yaml")
    again = Ensemble.load(tmp_path / "out.yaml")
    assert again.names == ensemble.names
    assert again.sources[2] == ensemble.sources[2]


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


BOUNDS = (0.005, 0.01, 0.02, 0.05, 0.1, float("inf"))


def constant(seconds, count):
    """The histogram of a figure that never changes."""
    return Histogram({bound: count if seconds <= bound else 0.0 for bound in BOUNDS}, seconds * count)


def service(proposed, accepted, ms, texts=100):
    return Service(
        tokens=1000.0,
        proposed={"c": proposed},
        accepted={"c": accepted},
        between_tokens=constant(ms / 1e3, 1000.0),
        per_text=constant(ms / 1e3, texts),
        to_first_token=constant(0.01, texts),
    )


def in_pilot():
    """The example's acceptance and mean milliseconds from token to token at its planned concurrency."""
    row = EXAMPLE.mechanism.row(EXAMPLE.settings.ours, EXAMPLE.verdict.concurrency)
    share = sum(each.accepted for each in row.proposers) / sum(each.proposed for each in row.proposers)
    runs = [run for run in EXAMPLE.measurements if (run.method, run.concurrency) == (row.method, row.concurrency)]
    # Of one text each.
    seconds = sum(run.text_seconds[0] - run.first_token_seconds[0] for run in runs)
    return share, 1e3 * seconds / sum(run.tokens - 1 for run in runs)


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
    assert restarted.since(service(400, 300, 5.0)) == replace(restarted, is_restarted=True)


def test_a_percentile_has_drifted_only_where_its_whole_bucket_lies_beyond_the_limit():
    limits = {"max_ms_per_token": Limits(p95=25.0), "max_first_token_ms": Limits(p50=5.0)}
    results = asking(EXAMPLE, **limits)

    def status(ms):
        found = watch(results, service(0, 0, ms), 1e3)
        return {reading.name: reading.status for reading in found.readings if reading.is_criterion}

    # 22 and 26 ms lie in one bucket; so does the limit.
    assert status(22.0) == {"ms_per_token.p95": "steady", "first_token_ms.p50": "drifted"}
    assert status(26.0)["ms_per_token.p95"] == "steady"
    assert status(51.0)["ms_per_token.p95"] == "drifted"


def test_quantiles_lie_above_the_lower_bounds_of_their_buckets():
    histogram = Histogram({1.0: 50.0, 2.0: 90.0, float("inf"): 100.0}, 100.0)
    assert [histogram.at_least(share) for share in (0.5, 0.7, 0.99)] == [0.0, 1.0, 2.0]
    assert Histogram().at_least(0.5) is None


def test_a_service_is_held_against_the_plan_that_was_written_for_it():
    # With 8 at once ours was no faster than plain, so that it is good for 1 alone.
    results = replace(EXAMPLE, verdict=replace(EXAMPLE.verdict, decision="go up to", concurrency=8, up_to=1))
    share, ms = in_pilot()
    found = watch(results, service(1000, 1000 * share, ms), 0.25)
    assert {r.name: r.pilot for r in found.readings if not r.is_criterion} == {
        "acceptance": pytest.approx(share),
        "ms_per_token": pytest.approx(ms),
    }
    # Plain proposes nothing, and what it is held against has none to compare.
    plain = watch(with_best(asking(EXAMPLE), "plain"), service(0, 0, ms), 0.25)
    (reading,) = plain.readings
    assert reading.name == "ms_per_token"
    assert reading.pilot > ms


def test_other_servers_are_refused():
    for text in ("python_info 1.0\n", '<!doctype html><html><body class="x">Bad gateway</body></html>', "{}", "a{b"):
        with pytest.raises(InvalidPilot, match="no metrics of `cospec serve`"):
            parsed(text)


@pytest.fixture(scope="module")
def server(pair):
    with servers.Served(pair, max_sequences=4) as running:
        yield running


def of_ensemble(results, ensemble):
    """The same study, as if it were of this ensemble."""
    target = target_formula(ensemble.combination, ensemble.member_names)
    names = {"members": ensemble.member_names, "drafters": ensemble.drafter_names, "target": target}
    return replace(results, settings=replace(results.settings, **names))


def kept_as(results, path):
    path.write_text(json.dumps(results.to_dict()), encoding="utf-8")
    return str(path)


def test_a_running_server_is_watched(server, pair, tmp_path):
    pilot = kept_as(of_ensemble(EXAMPLE, pair), tmp_path / "results.json")

    def watched(*arguments):
        shown = CliRunner().invoke(app, ["watch", server.url, "--pilot", pilot, "--once", *arguments])
        return shown.exit_code, shown.output

    code, output = watched("--json")
    assert code == 4, output
    assert json.loads(output)["status"] == "too few"
    assert {reading["status"] for reading in json.loads(output)["readings"]} == {"too few"}
    body = {"model": "demo:we", "prompt": "the members", "max_tokens": 64, "ignore_eos": True}
    for _ in range(16):
        httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).raise_for_status()
    # Nothing is slower than a pilot that had all the time there is, and everything than one that had none.
    assert watched("--tolerance", "1e6")[0] in (0, 1)
    code, output = watched("--json", "--tolerance", "0")
    found = json.loads(output)
    assert found["tokens"] == 16 * 64
    assert found["schedule"] == "auto"
    readings = {(reading["name"], reading["is_criterion"]): reading for reading in found["readings"]}
    assert readings["ms_per_token", False]["now"] > 0
    assert code == found["drifted"]
    assert found["status"] == ("drifted" if code else "steady")


@pytest.mark.parametrize(
    "changed", [{"members": ("a", "c")}, {"target": "0.9 a + 0.1 b"}, {"drafters": ("d",)}, {"drafters": ()}]
)
def test_a_server_of_another_ensemble_is_refused_and_both_are_named(server, pair, tmp_path, changed):
    other = of_ensemble(EXAMPLE, pair)
    other = replace(other, settings=replace(other.settings, **changed))
    pilot = kept_as(other, tmp_path / "results.json")
    shown = CliRunner().invoke(app, ["watch", server.url, "--pilot", pilot, "--once"])
    assert shown.exit_code == 2
    said = " ".join(shown.output.split())
    assert "the server decodes a + b (0.5 a + 0.5 b), drafters c, and the pilot measured" in said
    settings = other.settings
    assert described(settings.members, settings.target, settings.drafters) in said


def test_drafters_that_a_plan_has_no_use_for_may_be_left_out():
    settings = EXAMPLE.settings
    row = EXAMPLE.mechanism.row(served(EXAMPLE).method, served(EXAMPLE).concurrency)
    used = [name for name in settings.drafters if name in {each.name for each in row.proposers}]
    more = replace(EXAMPLE, settings=replace(settings, drafters=(*settings.drafters, "unused")))
    running = ServedEnsemble(members=settings.members, drafters=tuple(used), target=settings.target, schedule="auto")
    assert same(more, {"model": running}) == "model"
    # Of several ensembles behind one server it is that of the pilot.
    other = replace(running, members=("x", "y"))
    assert same(more, {"other": other, "model": running}) == "model"
    with pytest.raises(OtherEnsemble, match=r"x \+ y .* and the pilot measured"):
        same(more, {"other": other})


def test_a_window_says_no_more_than_its_tokens_show():
    share, ms = in_pilot()
    enough = watch(EXAMPLE, service(1000, 1000 * share, ms), 0.25)
    assert enough.status == "steady"
    few = watch(EXAMPLE, replace(service(10, 10 * share, ms, 2), tokens=20.0), 0.25)
    assert {reading.status for reading in few.readings} == {"too few"}
    assert few.status == few.to_dict()["status"] == "too few"
    assert not few.has_drifted
    # What was decoded shows drift, whatever is too little for another figure.
    assert watch(EXAMPLE, service(10, 10 * share, 2 * ms), 0.25).status == "drifted"


def test_a_restart_is_told_by_any_count_that_went_back():
    before = service(400, 300, 5.0)
    assert not service(500, 400, 5.0).since(before).is_restarted
    # More tokens than the last time, and fewer drafts.
    again = replace(service(10, 9, 5.0), tokens=5000.0)
    assert again.since(before) == replace(again, is_restarted=True)
    assert watch(EXAMPLE, again.since(before), 0.25).is_restarted


@contextlib.contextmanager
def answering(answers, models):
    """A server that gives these answers to those who ask for its metrics, a status and a text each, then Ctrl-C.

    models: what `/v1/models` says, a status and a text.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, text = answers.pop(0) if self.path == "/metrics" else models
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())
            if not answers and self.path == "/metrics":
                os.kill(os.getpid(), signal.SIGINT)

        def log_message(self, *_):
            """Says nothing on standard error."""

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def listed(settings):
    """What `/v1/models` says of this study's ensemble."""
    own = {key: getattr(settings, key) for key in ("members", "drafters", "target")}
    return json.dumps({"data": [{"id": "model", "cospec": {**own, "schedule": "auto"}}]})


@pytest.mark.parametrize(
    "models", [(404, ""), (200, "<html>Welcome</html>"), (200, '{"data": [{"id": "llama"}]}'), (200, "[]")]
)
def test_a_server_that_decodes_no_ensemble_is_told(tmp_path, models):
    pilot = kept_as(EXAMPLE, tmp_path / "results.json")
    with answering([(200, Metrics().text().decode())] * 9, models) as url:
        shown = CliRunner().invoke(app, ["watch", url, "--pilot", pilot, "--once"])
    assert shown.exit_code == 2
    said = " ".join(shown.output.split())
    assert "/v1/models" in said
    assert "cospec serve" in said


def test_the_watch_goes_on_while_a_server_starts_anew(tmp_path):
    metrics = Metrics()
    metrics.of("model").watch(SimpleNamespace(num_running=0, num_waiting=0))
    idle = metrics.text().decode()
    pilot = kept_as(EXAMPLE, tmp_path / "results.json")
    answers = [(200, idle), (502, "<html>Bad gateway</html>"), (200, "<html>Welcome</html>"), (200, idle)]
    with answering(answers, (200, listed(EXAMPLE.settings))) as url:
        shown = CliRunner().invoke(app, ["watch", url, "--pilot", pilot, "--every", "1", "--json"])
    assert shown.exit_code == 4, shown.output
    assert "trying again (1 of 5)" in shown.stderr
    assert "trying again (2 of 5)" in shown.stderr
    (window,) = map(json.loads, shown.stdout.splitlines())
    assert {reading["status"] for reading in window["readings"]} == {"too few"}


def test_the_watch_ends_where_a_server_stays_away(tmp_path):
    def gone():
        raise InvalidPilot("nobody is there")

    quiet = service(0, 0, 1.0)
    with pytest.raises(InvalidPilot, match="nobody is there"):
        _windows(gone, partial(watch, EXAMPLE, tolerance=0.25), quiet, 0.01, True)


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
    # Where the platform is counted as a whole, the package is part of it.
    (tmp_path / "intel-rapl:1").mkdir()
    for name, text in (("name", "psys\n"), ("max_energy_range_uj", "10000000\n"), ("energy_uj", "5000000\n")):
        (tmp_path / "intel-rapl:1" / name).write_text(text, encoding="ascii")
    (package / "max_energy_range_uj").write_text("10000000\n", encoding="ascii")
    (package / "energy_uj").write_text("9000000\n", encoding="ascii")
    meter = find_meter(tmp_path)
    assert meter.source == "rapl"
    assert len(meter.counters) == 1
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

"""The Grafana dashboard: every metric and label that it reads is exported once there was traffic."""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

DASHBOARD = json.loads((Path(__file__).parents[2] / "dashboards" / "cospec.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
PROMPT = "Question: Sam has 3 bags of 12 apples. How many apples are there?\nAnswer:"


@pytest.fixture(scope="module")
def exported(served):
    """Name -> the labels of one of its samples, of what a server exports after drafted and plain texts."""
    with served.http() as http:
        for schedule in ("alternate", "fixed"):
            asked = {"prompt": PROMPT, "max_tokens": 24, "seed": 3, "schedule": schedule}
            assert http.post("/v1/completions", json=asked).status_code == 200
        lines = http.get("/metrics").text.splitlines()
    found = [re.match(r"([\w:]+)\{(.*)\} ", line) for line in lines if not line.startswith("#")]
    return {each[1]: set(re.findall(r'(\w+)="', each[2])) for each in found if each}


@pytest.mark.parametrize("query", QUERIES)
def test_what_a_panel_reads_is_exported(query, exported):
    names = set(re.findall(r"\b(?:vllm|cospec):\w+", query))
    assert names
    assert names <= exported.keys()
    for labels in re.findall(r"by \((\w+)\)", query):
        assert any(labels in exported[name] for name in names)
    assert all("model_name" in exported[name] for name in names)


def test_every_metric_is_on_the_dashboard(exported):
    read = set(re.findall(r"\b(?:vllm|cospec):\w+", " ".join(QUERIES)))
    families = {re.sub(r"_(bucket|sum|count|created|total)$", "", name) for name in exported}
    assert families == {re.sub(r"_(bucket|total)$", "", name) for name in read}


def test_panels_have_their_own_ids_and_places():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above


def test_variables_are_those_that_the_queries_use():
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS))) - {"__rate_interval"}
    assert used == {variable["name"] for variable in DASHBOARD["templating"]["list"]}
